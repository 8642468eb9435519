"""What one sees while a run goes on: die, step, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from protocols.terminal.console import can_redraw, lost

#: Seconds between two lines of a log about the same step.
HEARTBEAT = 60.0


class RunProgress:
    """A live display of a run; on what cannot redraw (a log file) it prints a line per die and one a minute instead."""

    def __init__(self, console: Console, station_time: Callable[[], float | None] = lambda: None) -> None:
        self._console, self._station_time = console, station_time
        columns = (TextColumn("{task.description:<34}", style="bold", markup=False), BarColumn(bar_width=28))
        self._dies = Progress(*columns, MofNCompleteColumn(), TimesColumn(), console=console)
        self._steps = Progress(
            TextColumn("  {task.description:<32}", markup=False), BarColumn(bar_width=28),
            TextColumn("{task.fields[note]}", markup=False), console=console,
        )  # fmt: skip
        self._die_task = self._dies.add_task("starting", total=None)
        self._step_task = self._steps.add_task("", total=1.0, note="")
        self._live = Live(Group(self._dies, self._steps), console=console, refresh_per_second=8, transient=True)
        self._redraws = can_redraw(console)
        self._done, self._from_record, self._began = 0, 0, time.monotonic()
        self._pass, self._last_index = 0, -1
        self._spoke = self._began
        #: Called at every sign of progress; what it raises breaks off the step.
        self.also: Callable[[], None] = lambda: None
        #: Called once, between two steps, with why what is shown no longer arrives.
        self.lost: Callable[[str], None] = lambda why: None
        self._told = False

    def __enter__(self) -> RunProgress:
        if self._redraws:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def die(self, name: str, index: int, count: int) -> None:
        """The run is at this die now; going back to an earlier one begins the next pass."""
        if index <= self._last_index:
            self._pass += 1
            self._dies.reset(self._die_task)
        self._last_index = index
        text = f"pass {self._pass + 1}  die {name}"
        self._dies.update(self._die_task, description=text, completed=index, total=count)
        if not self._redraws:
            self.message(f"{text} ({index + 1} of {count}){self._note()}")

    def step(self, name: str, recorded: bool) -> None:
        """A step begins, or came from the record."""
        why = lost(self._console)
        if why and not self._told:
            self._told = True
            self.lost(why)
        self._done += not recorded
        self._from_record += recorded
        note = "from the record" if recorded else self._note()
        self._steps.update(self._step_task, description=name.replace("_", " "), completed=0.0, note=note)

    def progress(self, text: str, share: float) -> None:
        """How far the current step is, 0..1."""
        self._steps.update(self._step_task, description=text, completed=share)
        if not self._redraws and time.monotonic() - self._spoke >= HEARTBEAT:
            self.message(f"{text}: {_percent(share)}{self._note()}")
        self.also()

    def message(self, text: str) -> None:
        """A line that stays; in a log with the time of day."""
        self._spoke = time.monotonic()
        self._console.print(text if self._redraws else f"{time.strftime('%H:%M:%S')}  {text}")

    def _note(self) -> str:
        minutes = max((time.monotonic() - self._began) / 60, 1e-6)
        station = self._station_time()
        clock = "" if station is None else f", station time {station / 60:.1f} min"
        return f"  {self._done / minutes:.0f} steps/min{clock}"


class TimesColumn(ProgressColumn):
    """How long something has taken and how long it will, each with its word: no time of the two reads as the other."""

    def render(self, task: Task) -> Text:
        """Both times, or the first alone while the second cannot be told."""
        elapsed = task.finished_time if task.finished else task.elapsed
        words = [f"{_clock(elapsed or 0.0)} elapsed"]
        if task.time_remaining is not None and not task.finished:
            words.append(f"about {_clock(task.time_remaining)} left")
        return Text(", ".join(words))


def _percent(share: object) -> str:
    """A share as a script gave it."""
    return f"{share:.0%}" if isinstance(share, int | float) else str(share)


def _clock(seconds: float) -> str:
    """``0:02:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
