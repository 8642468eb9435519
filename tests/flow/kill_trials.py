"""Trials of killing what runs a short lot, and how they are judged: by the station's physical log and by the record.

A trial runs `short_lot` in a process of its own, kills it (or its broker), looks that the station made itself safe,
goes on with `xbar resume`, perhaps kills that too, and compares the end with a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from command_line import PATIENCE, Process, ended, served, start_dying, wait_for, wait_for_broker
from happened import assert_frames_were_intended, assert_read_before_pulsed, happened, operations, safe_after
from short_lot import write_lot

from analysis.record.record import Record
from sim_backends.array.dies.readout import ReadoutSpec

HERE = Path(__file__).parent
PROTOCOL, SEED = "short_lot.py:short_lot", 1
#: A die by its site, as this program names them.
DIES = {(0, 1): "c0r1", (0, 0): "c0r0"}
#: Seconds after a kill within which lines must be grounded and needles up.
SAFE_WITHIN = 2.0 * PATIENCE / 60
#: Seconds after the death of the broker; the board's own watchdog bites after 2 s.
SAFE_WITHOUT_BROKER = 5.0 * PATIENCE / 60
#: Seconds after a restart of the board, whose lines are grounded then: the driver waits for the answer for 5 s.
SAFE_AFTER_RESTART = 12.0 * PATIENCE / 60
#: A served station takes this time (s) for what it does, so that moments fall between as well as into operations.
TIMING = {"die_step": 0.1, "approach": 0.1, "retreat": 0.1, "home": 0.1, "frame": 0.006}
#: What a run may change of what others have committed: it closes their run, and settles their batches.
CLOSED_LATER = {"runs": ("status", "ended"), "batches": ("settled", "settled_by", "frames"), "requests": ("taken",)}
#: Largest difference of two means of reads, in standard deviations; there are some ten thousand cells a trial.
SIGMAS = 7.0

Rows = dict[str, dict[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Moment:
    """When to kill: at the n-th boundary of `dying_xbar`, or so many seconds after the first boundary.

    `victim`: ``runner``, ``broker`` (so many seconds after it is there), or ``board``: it loses its supply for a moment
    with the n-th pulse `frame` since the station came up, after that was carried out, or `before` that; it answers
    neither.
    """

    boundary: int = 0
    seconds: float = 0.0
    victim: str = "runner"
    frame: int = 0
    before: bool = False

    def __str__(self) -> str:
        if self.frame:
            return f"board {'before' if self.before else 'after'} pulse frame {self.frame}"
        when = f"boundary {self.boundary}" if self.boundary else f"{self.seconds:.3f} s"
        return f"{self.victim} at {when}"


@dataclass
class Reference:
    """A run that nobody disturbed: its boundaries (name, seconds since the first), its steps, what the dies saw."""

    boundaries: list[tuple[str, float]]
    steps: list[dict[str, Any]]
    results: list[xr.Dataset]
    verdicts: dict[str, tuple[str, int]]
    operations: dict[str, list[tuple[Any, ...]]]
    pulse_frames: int = 0

    @property
    def duration(self) -> float:
        """Seconds from the first boundary to the last."""
        return self.boundaries[-1][1]

    @property
    def connected(self) -> float:
        """Seconds from the first boundary until the station was connected; the broker comes up a little before."""
        return self.when("station, after")

    def when(self, name: str) -> float:
        """Seconds from the first boundary to the first of a name."""
        return next(when for boundary, when in self.boundaries if boundary == name)

    def nth(self, name: str, count: int) -> int:
        """Number of the `count`-th boundary of a name."""
        return [i for i, (boundary, _) in enumerate(self.boundaries, 1) if boundary == name][count - 1]


@dataclass
class Killed:
    """What was found after one kill: the last boundary before it, exit status, seconds until safe and until free."""

    moment: Moment
    name: str
    time: float
    status: int
    safe_s: float
    broker_s: float
    rows: Rows
    unfired: list[tuple[str, int, set[int]]]

    @property
    def at_rest(self) -> float:
        """When the station was safe; a frame that was on its way may still have been done before that."""
        return self.time + self.safe_s


@dataclass
class Judged:
    """What came out of a trial that was found in order."""

    kills: list[Killed] = field(default_factory=list)
    frames: int = 0
    resumed_s: float = 0.0
    identical: int = 0
    within_noise: int = 0


class Place:
    """A lot folder and the station of its runs: served by hand, or started by each run (`own`)."""

    def __init__(self, home: Path, station: Path | None, log: Path) -> None:
        self.home, self.folder, self.log = home, home / "lot", log
        self.station = station or self.folder / "station.yaml"
        where = ["--station", str(station)] if station else ["--lot", str(home / "short.yaml")]
        self._run = ["run", str(HERE / PROTOCOL), *where, "--seed", str(SEED), "--out", str(self.folder)]
        self.noted, self._said = home / "boundaries", home / "said"

    def command(self) -> list[str]:
        """What goes on with the lot: the run itself until its record knows of it, `xbar resume` from then on."""
        return ["resume", str(self.folder)] if self._begun() else self._run

    def _begun(self) -> bool:
        if not (self.folder / "record.sqlite").exists():
            return False
        with Record.open(self.folder, create=False, write=False) as record:
            return bool(record.runs())

    @contextlib.contextmanager
    def process(self, boundary: int) -> Iterator[Process]:
        """The command as a process that kills itself at a boundary (0: at none)."""
        self.noted.write_text("", encoding="utf-8")
        self._said.write_text("", encoding="utf-8")
        with self._said.open("wb") as said, ended(start_dying(self.noted, boundary, self.command(), said)) as process:
            yield process

    def finish(self) -> str:
        """Go on to the end, undisturbed; returns what was said."""
        with self.process(0) as process:
            assert process.wait(PATIENCE) == 0, self.said()
        return self.said()

    def said(self) -> str:
        """What the last command said."""
        return " ".join(self._said.read_text(encoding="utf-8", errors="replace").split())

    def boundaries(self) -> list[tuple[str, float]]:
        """Name and time (s since 1970) of the boundaries that the last command passed."""
        lines = [line.split("\t") for line in self.noted.read_text(encoding="utf-8").splitlines()]
        return [(name, float(when)) for _, name, when in lines]

    def broker(self) -> int | None:
        """Process of the broker that holds the station, as far as that is known."""
        try:
            return int(json.loads((self.folder / "broker.json").read_text(encoding="utf-8"))["pid"])
        except (OSError, ValueError):
            return None


@contextlib.contextmanager
def served_place(home: Path, **more: Any) -> Iterator[Place]:
    """A station that somebody serves: it outlives the run, and its board goes on counting."""
    log, config = home / "physical.jsonl", home / "config.yaml"
    station = {"lot": str(write_lot(home / "short.yaml")), "seed": SEED, "log": str(log), **more}
    config.write_text(yaml.safe_dump({**station, "realtime": True, "timing": TIMING}), encoding="utf-8")
    with served(config, write=home / "station.yaml"):
        yield Place(home, home / "station.yaml", log)


@contextlib.contextmanager
def restarting_place(home: Path, moments: Sequence[Moment] = ()) -> Iterator[Place]:
    """A served station with a board that restarts whenever its port is opened, as many do, and at some pulse frames."""
    faults = [
        {"kind": "restart", "where": "board", "matching": ["PULSE", "PULSE_READ"], "nth": each.frame,
         "before": each.before}
        for each in moments if each.frame
    ]  # fmt: skip
    with served_place(home, board={"restarts_on_open": True, "boot": 0.1}, faults=faults) as place:
        yield place


@contextlib.contextmanager
def own_place(home: Path) -> Iterator[Place]:
    """A station that each run starts and that ends with it; the dies stay in the lot's folder."""
    write_lot(home / "short.yaml")
    yield Place(home, None, home / "lot" / "station" / "physical.jsonl")


PLACES = {"served": served_place, "own": own_place, "restarting": restarting_place}


def opened(name: str, home: Path, moments: Sequence[Moment] = ()) -> contextlib.AbstractContextManager[Place]:
    """The place of a name, for kills at some moments."""
    return restarting_place(home, moments) if name == "restarting" else PLACES[name](home)


def undisturbed(place: Place) -> Reference:
    """Run the lot without a kill."""
    place.finish()
    boundaries = place.boundaries()
    entries = happened(place.log)
    with Record.open(place.folder, create=False, write=False) as record:
        rows = list(table_rows(place.folder)["steps"].values())
        results = [record.load(row["id"]) for row in rows]
        verdicts = {die: (said.verdict, said.bin) for die, said in record.verdicts().items()}
        frames = assert_frames_were_intended(entries, record, DIES)
    began = boundaries[0][1]
    done = {die: operations(entries, site) for site, die in DIES.items()}
    return Reference([(name, when - began) for name, when in boundaries], rows, results, verdicts, done, frames)


def trial(place: Place, reference: Reference, moments: list[Moment]) -> Judged:
    """Kill the lot's run at each of some moments, one after the other, then let it finish; judge all of it."""
    judged = Judged()
    for moment in moments:
        killed = kill(place, moment)
        judged.kills.append(killed)
    began = time.monotonic()
    said = place.finish()
    judged.resumed_s = time.monotonic() - began
    assert "--yes" not in said, said
    judge(place, reference, judged)
    return judged


def kill(place: Place, moment: Moment) -> Killed:
    """Start the lot's command, kill it at a moment, and see that the station is safe and the record whole."""
    with place.process(moment.boundary) as process:
        if moment.victim == "broker":
            when = _kill_broker(place, process, moment.seconds)
        elif moment.victim == "board":
            when = _restart_of_board(place, process)
        elif moment.boundary:
            when = _wait_for_end(process)
        else:
            when = _kill_runner(place, process, moment.seconds)
        status = process.wait(PATIENCE)
    passed = place.boundaries()
    if moment.boundary and len(passed) >= moment.boundary:
        when = passed[moment.boundary - 1][1]
    name = next((name for name, at in reversed(passed) if at <= when), "start")
    patience = {"broker": SAFE_WITHOUT_BROKER, "board": SAFE_AFTER_RESTART}.get(moment.victim, SAFE_WITHIN)
    with contextlib.suppress(AssertionError):
        wait_for(lambda: safe_after(happened(place.log), when) is not None, 3 * patience)
    safe = safe_after(happened(place.log), when)
    assert safe is not None, f"{moment}: lines were not grounded and needles not lifted within {3 * patience} s"
    assert safe <= patience, f"{moment}: safe only {safe:.2f} s later"
    gone = _wait_for_broker(place)
    rows = table_rows(place.folder)
    return Killed(moment, name, when, status, safe, gone, rows, _unfired(place.folder))


def _wait_for_end(process: Process) -> float:
    process.wait(PATIENCE)
    return time.time()


def _kill_runner(place: Place, process: Process, seconds: float) -> float:
    """Kill it so long after its first boundary, or before that."""
    wait_for(lambda: place.noted.stat().st_size or process.poll() is not None)
    began = place.boundaries()[0][1] if place.boundaries() else time.time()
    time.sleep(max(0.0, began + seconds - time.time()))
    when = time.time()
    process.kill()
    return when


def _kill_broker(place: Place, process: Process, seconds: float) -> float:
    """Kill it so long after it has come up; the run must then end by itself and say what to do."""
    wait_for(lambda: place.broker() is not None or process.poll() is not None)
    broker = place.broker()
    time.sleep(seconds)
    when = time.time()
    if broker is not None and process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(broker, getattr(signal, "SIGKILL", signal.SIGTERM))
    status, said = process.wait(PATIENCE), place.said()
    # in a trial of both kinds the board may have gone before
    ended_by = "broker" in said or ("restarted" in said and _restarts(place))
    assert status == 0 or (status == 1 and ended_by and "xbar resume" in said), (status, said)
    assert "Traceback" not in said, said
    return when


def _restarts(place: Place) -> list[float]:
    """When the board restarted with the needles on a die."""
    return [entry["wall_s"] for entry in happened(place.log) if entry["what"] == "restart" and entry["contact"]]


def _restart_of_board(place: Place, process: Process) -> float:
    """Wait until the run has ended by itself, and has said what to do, since its board has restarted under it."""
    status, said = process.wait(PATIENCE), place.said()
    restarts = _restarts(place)
    assert status == 0 or (status == 1 and "restarted" in said and "xbar resume" in said), (status, said)
    assert "Traceback" not in said, said
    return float(restarts[-1]) if restarts else time.time()


def _wait_for_broker(place: Place) -> float:
    """Seconds until nobody holds the station any more."""
    began = time.monotonic()
    wait_for_broker(place.folder)
    return time.monotonic() - began


def table_rows(folder: Path) -> Rows:
    """All that is committed: every row of every table of a record, by its key; nothing if there is no record yet."""
    path = folder / "record.sqlite"
    if not path.exists():
        return {}
    with Record.open(folder, create=False, write=False) as record:  # opens, and every seal and hash holds
        for step in record.steps():
            record.load(step.step)
        for die in record.dies():
            record.intents(die)
            record.readings(die)
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        found = "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite_%'"
        tables = [name for (name,) in database.execute(found)]
        return {name: {row[0]: dict(row) for row in database.execute(f"SELECT * FROM {name}")} for name in tables}


def _unfired(folder: Path) -> list[tuple[str, int, set[int]]]:
    """Die, number and kernels of the batches of which nobody knows how much was fired."""
    if not (folder / "record.sqlite").exists():
        return []
    with Record.open(folder, create=False, write=False) as record:
        return [(die, batch.id, set(batch.kernels)) for die in record.dies() for batch in record.unfired(die)]


def judge(place: Place, reference: Reference, judged: Judged) -> None:
    """Nothing committed was lost, changed or repeated, no cell pulsed behind the record's back, the end is the same."""
    entries, rows = happened(place.log), table_rows(place.folder)
    for killed in judged.kills:
        assert_kept(killed.rows, rows)
        for die, batch, kernels in killed.unfired:
            site = next(site for site, name in DIES.items() if name == die)
            assert_read_before_pulsed(entries, site, kernels, killed.at_rest)
            _assert_settled(rows, batch, killed, entries, site, any(k.name.startswith("settled") for k in judged.kills))
    with Record.open(place.folder, create=False, write=False) as record:
        judged.frames = assert_frames_were_intended(entries, record, DIES)
        assert record.events("superseded") == [] and not any(record.unfired(die) for die in record.dies())
        assert record.runs()[-1]["status"] == "finished"
        assert {die: (said.verdict, said.bin) for die, said in record.verdicts().items()} == reference.verdicts
        _compare(list(rows["steps"].values()), record, entries, reference, judged)


def assert_kept(before: Rows, after: Rows) -> None:
    """All that was committed is there as it was, but for what a later run may close."""
    for table, known in before.items():
        closed = CLOSED_LATER.get(table, ())
        for key, row in known.items():
            assert key in after[table], f"row {key} of {table} is lost"
            changed = {name for name, value in row.items() if after[table][key][name] != value}
            assert changed <= {name for name in closed if row[name] is None or name == "status"}, (
                f"row {key} of {table}: {sorted(changed)} changed"
            )


def _assert_settled(
    rows: Rows, batch: int, killed: Killed, entries: list[dict[str, Any]], site: tuple[int, int], at_settling: bool
) -> None:
    """A batch that was cut in the middle was settled, and what was read then was kept, before its die was pulsed."""
    pulsed = [e["wall_s"] for e in entries if e["what"] == "pulse" and tuple(e["site"]) == site]
    first = min((when for when in pulsed if when > killed.at_rest), default=np.inf)
    settled = rows["batches"][batch]["settled"]
    assert settled is not None and settled < first, f"batch {batch} was not settled before the next pulse"
    read = [row["time"] for row in rows["readings"].values() if row["batch"] == batch]
    assert any(killed.at_rest < when < first for when in read), f"nothing was kept of reading after batch {batch}"
    told = [e for e in rows["events"].values() if e["kind"] == "settled" and json.loads(e["data"])["batch"] == batch]
    assert len(told) == 1 or at_settling, f"{len(told)} events tell that batch {batch} was settled"


def _compare(
    steps: list[dict[str, Any]],
    record: Record,
    entries: list[dict[str, Any]],
    reference: Reference,
    judged: Judged,
) -> None:
    """Every step once; those of undisturbed dies, and of the time before the first kill, byte for byte as there."""
    same = {die for site, die in DIES.items() if operations(entries, site) == reference.operations[die]}
    for die in {row["die"] for row in reference.steps}:
        done, wanted = ([row["function"] for row in rows if row["die"] == die] for rows in (steps, reference.steps))
        assert done == wanted, f"steps of {die or 'the lot'} are not those of the undisturbed run, once each"
    for known, result in zip(reference.steps, reference.results, strict=True):
        (row,) = [r for r in steps if (r["die"], r["function"]) == (known["die"], known["function"])]
        if row["die"] not in DIES.values() or row["die"] in same or row["run"] == 1:
            for name in ("source", "inputs_digest", "verdict", "attrs", "variables"):
                assert row[name] == known[name], f"{row['function']} on {row['die']}: {name} is not as undisturbed"
            judged.identical += 1
        else:
            _assert_alike(record.load(row["id"]), result)
            judged.within_noise += 1


def _assert_alike(found: xr.Dataset, known: xr.Dataset) -> None:
    """Verdict, counts and states are the same, conductances within the noise of reading."""
    free = {"changed", "pulses", "curvature_p", "curvature_ap", "conditions", "conducting", "attempts"}
    for name in known.attrs.keys() - free:
        assert found.attrs[name] == known.attrs[name], (name, found.attrs[name], known.attrs[name])
    for name in known.data_vars:
        if known[name].dtype.kind in "iub" and name != "pulses":
            assert np.array_equal(found[name], known[name]), (
                f"{name} differs in {int((found[name] != known[name]).sum())}"
            )
    for name in ("g_p", "g_ap"):
        if name in known:
            a, b = found[name].values, known[name].values
            worst = np.max(np.abs(a - b) / (np.sqrt(2) * read_sigma(b, v_read=0.1, averages=4)))
            assert worst < SIGMAS, f"{name} differs by {worst:.1f} standard deviations of a read"


def read_sigma(g: np.ndarray, *, v_read: float, averages: int) -> np.ndarray:
    """Standard deviation (S) of a conductance by the readout of the simulated board: channel, cell, and rounding."""
    spec = ReadoutSpec()
    lsb = 2 * spec.full_scales[0] * (1 + spec.headroom) / 2**spec.adc_bits
    one = spec.current_noise**2 + (spec.cell_noise * g * v_read) ** 2 + lsb**2 / 12
    return np.sqrt(one / averages) / v_read
