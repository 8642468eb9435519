"""What one sees while a run goes on: die, step, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class RunProgress:
    """A live display of a run; on a terminal that cannot redraw (a log file) it prints a line per die instead."""

    def __init__(self, console: Console, station_time: Callable[[], float | None] = lambda: None) -> None:
        self._console, self._station_time = console, station_time
        columns = (TextColumn("[bold]{task.description:<34}"), BarColumn(bar_width=28), MofNCompleteColumn())
        self._dies = Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)
        self._steps = Progress(
            TextColumn("  {task.description:<32}"), BarColumn(bar_width=28), TextColumn("{task.fields[note]}"),
            console=console,
        )  # fmt: skip
        self._die_task = self._dies.add_task("starting", total=None)
        self._step_task = self._steps.add_task("", total=1.0, note="")
        self._live = Live(Group(self._dies, self._steps), console=console, refresh_per_second=8, transient=True)
        self._done, self._from_record, self._began = 0, 0, time.monotonic()
        self._pass, self._last_index = 0, -1
        #: Called at every sign of progress; what it raises breaks off the step.
        self.also: Callable[[], None] = lambda: None

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
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
        if not self._console.is_terminal:
            self._console.print(f"{text} ({index + 1} of {count}){self._note()}", highlight=False)

    def step(self, name: str, recorded: bool) -> None:
        """A step begins, or came from the record."""
        self._done += not recorded
        self._from_record += recorded
        note = "from the record" if recorded else self._note()
        self._steps.update(self._step_task, description=name.replace("_", " "), completed=0.0, note=note)

    def progress(self, text: str, share: float) -> None:
        """How far the current step is, 0..1."""
        self._steps.update(self._step_task, description=text, completed=share)
        self.also()

    def message(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _note(self) -> str:
        minutes = max((time.monotonic() - self._began) / 60, 1e-6)
        station = self._station_time()
        clock = "" if station is None else f", station time {station / 60:.1f} min"
        return f"  {self._done / minutes:.0f} steps/min{clock}"
