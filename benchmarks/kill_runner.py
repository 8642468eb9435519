"""Kill -9 of the runner (and of its broker) at random moments and at every boundary of a short lot, then resume.

The board loses its supply too: in some trials with a pulse frame, in a third of all whenever its port is opened.

``python benchmarks/kill_runner.py [--uniform 100] [--boundaries 0] [--chains 10] [--broker 10] [--board 20]``; by
default it takes about half an hour on two cores (on a busy machine set XBARLAB_TEST_PATIENCE to more than 60 s). A
trial fails if anything promised does not hold
(tests/flow/kill_trials.py says what is looked at); its folder is kept then. Prints what was killed where, and the worst
of what was found.

A third of the trials has a station that is served by hand and outlives the runs, a third the same with a board that
restarts when its port is opened, a third one that each run starts itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "flow"))

from kill_trials import PLACES, Judged, Moment, Reference, opened, trial, undisturbed


@dataclass(frozen=True)
class Planned:
    """A trial: its number, the kind it is counted as, its station, and when it kills."""

    number: int
    kind: str
    place: str
    moments: list[Moment]


def plan(options: argparse.Namespace, references: dict[str, Reference]) -> list[Planned]:
    """All trials, stations in turns."""
    rng = np.random.default_rng(options.seed)
    planned: list[Planned] = []

    def add(kind: str, moments: list[Moment]) -> None:
        planned.append(Planned(len(planned), kind, options.places[len(planned) % len(options.places)], moments))

    def uniform(victim: str = "runner") -> Moment:
        reference = references[options.places[len(planned) % len(options.places)]]
        end = reference.duration if victim == "runner" else reference.duration - reference.connected
        return Moment(seconds=float(rng.uniform(0.0, end)), victim=victim)

    for _ in range(options.uniform):
        add("uniform in time", [uniform()])
    for boundary in _boundaries(len(references[options.places[0]].boundaries), options.boundaries, rng):
        add("at a boundary", [Moment(boundary)])
    for _ in range(options.chains):
        name = options.places[len(planned) % len(options.places)]
        add("and the resumed runs too", _chain(options.length, name, references[name], rng))
    for _ in range(options.broker):
        add("broker", [uniform("broker")])
    for _ in range(options.board):
        frame = int(rng.integers(1, references["restarting"].pulse_frames + 1))
        moment = Moment(victim="board", frame=frame, before=bool(rng.integers(2)))
        planned.append(Planned(len(planned), "board restarts", "restarting", [moment]))
    return [planned[int(at)] for at in rng.permutation(len(planned))]  # an interrupted benchmark has some of each


def _chain(length: int, place: str, reference: Reference, rng: np.random.Generator) -> list[Moment]:
    """Kills one after the other: mostly of the runner, some of the broker, and restarts of a board that may restart."""
    frames = iter(sorted(int(at) for at in rng.integers(1, 2 * reference.pulse_frames, length)))
    moments = []
    for number in range(length):
        what = rng.random()
        if number == 0:
            moments.append(Moment(int(rng.integers(20, len(reference.boundaries)))))
        elif place == "restarting" and what < 0.4:
            moments.append(Moment(victim="board", frame=next(frames), before=bool(rng.integers(2))))
        elif what < 0.5:
            moments.append(Moment(seconds=float(rng.uniform(0.0, 4.0)), victim="broker"))
        elif what < 0.6:
            moments.append(Moment(seconds=float(rng.uniform(0.0, 6.0))))
        else:
            moments.append(Moment(int(rng.integers(5, 60))))
    return moments


def _boundaries(count: int, wanted: int, rng: np.random.Generator) -> list[int]:
    """So many different boundaries, all if 0, none if negative."""
    if wanted < 0:
        return []
    if not 0 < wanted < count:
        return list(range(1, count + 1))
    return sorted(int(at) for at in rng.choice(count, wanted, replace=False) + 1)


def attempt(planned: Planned, home: Path, references: dict[str, Reference]) -> Judged | None:
    """Do a trial in a folder of its own; None if it failed."""
    folder = home / f"{planned.number:04d}"
    folder.mkdir()
    try:
        with opened(planned.place, folder, planned.moments) as place:
            judged = trial(place, references[planned.place], planned.moments)
    except Exception:
        moments = ", ".join(map(str, planned.moments))
        print(f"FAILED: {planned.kind}, {planned.place} station, {moments}; see {folder}", flush=True)
        traceback.print_exc()
        return None
    shutil.rmtree(folder)
    return judged


def show(done: list[tuple[Planned, Judged | None]], seconds: float) -> None:
    """The counts."""
    print(f"\n{'trials':24} {'station':8} {'done':>5} {'failed':>6} {'kills':>6} {'batches cut':>11}")
    for kind, place in dict.fromkeys((planned.kind, planned.place) for planned, _ in done):
        of_kind = [judged for planned, judged in done if (planned.kind, planned.place) == (kind, place)]
        good = [judged for judged in of_kind if judged is not None]
        kills = [killed for judged in good for killed in judged.kills]
        cut = sum(len(killed.unfired) for killed in kills)
        print(f"{kind:24} {place:8} {len(of_kind):5} {len(of_kind) - len(good):6} {len(kills):6} {cut:11}")
    good = [judged for _, judged in done if judged is not None]
    kills = [killed for judged in good for killed in judged.kills]
    print("\nkilled after (last boundary passed):")
    for name, count in sorted(Counter(killed.name for killed in kills).items()):
        print(f"  {name:24} {count:5}")
    late = sum(killed.status == 0 for killed in kills)
    aborted = sum(killed.status > 0 for killed in kills if killed.moment.victim == "broker")
    print(f"too late, the run had ended: {late}; broker gone, the run aborted and said so: {aborted}")
    frames, same, alike = (
        sum(getattr(judged, name) for judged in good) for name in ("frames", "identical", "within_noise")
    )
    print(f"\npulse frames, each one intended and none twice: {frames}")
    print(f"steps identical to the undisturbed run: {same}; within read noise, states the same: {alike}")
    told = sum(killed.status > 0 for killed in kills if killed.moment.victim == "board")
    print(f"board restarted with a pulse frame, the run ended and said so: {told}")
    print(f"kills and restarts: {len(kills)}; trials in which a pulse was fired twice or something was lost: "
          f"{sum(judged is None for _, judged in done)}")  # fmt: skip
    for victim in ("runner", "broker"):
        safe = [killed.safe_s for killed in kills if killed.moment.victim == victim and killed.safe_s > 0]
        if safe:
            print(
                f"{victim} killed with needles down {len(safe)} times: "
                f"safe after {np.median(safe):.3f} s, at most {max(safe):.3f} s"
            )
    gone = [killed.broker_s for killed in kills]
    print(f"station free again after at most {max(gone, default=0.0):.1f} s; {seconds / 60:.1f} minutes in all")


def references_in(home: Path, places: list[str]) -> Iterator[tuple[str, Reference]]:
    """An undisturbed run at either kind of station."""
    for name in places:
        folder = home / f"undisturbed-{name}"
        folder.mkdir()
        with opened(name, folder) as place:
            yield name, undisturbed(place)


def main() -> None:
    """Do all trials; exit status 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uniform", type=int, default=100, help="kills uniform in time")
    parser.add_argument("--boundaries", type=int, default=0, help="kills at so many boundaries; 0: at each")
    parser.add_argument("--chains", type=int, default=10, help="trials whose resumed runs are killed, too")
    parser.add_argument("--length", type=int, default=3, help="kills of a chain")
    parser.add_argument("--broker", type=int, default=10, help="kills of the broker")
    parser.add_argument("--board", type=int, default=20, help="restarts of the board with a pulse frame")
    parser.add_argument("--jobs", type=int, default=2, help="trials at once")
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES), help="kinds of station")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="kill-runner-"))
    references = dict(references_in(home, options.places))
    planned = plan(options, references)
    done: list[tuple[Planned, Judged | None]] = []
    pool = ThreadPoolExecutor(options.jobs)
    running = {pool.submit(attempt, each, home, references): each for each in planned}
    try:
        for finished in as_completed(running):
            done.append((running[finished], finished.result()))
            kills = sum(len(judged.kills) for _, judged in done if judged is not None)
            took = time.monotonic() - began
            print(f"{len(done)} of {len(planned)} trials, {kills} kills, {took:.0f} s", flush=True)
    except KeyboardInterrupt:  # what is done counts
        print(f"interrupted; folders are kept in {home}")
        show(done, time.monotonic() - began)
        sys.stdout.flush()
        os._exit(130)  # trials that are under way do not end by themselves
    show(done, time.monotonic() - began)
    failed = any(judged is None for _, judged in done)
    if not failed:
        shutil.rmtree(home)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
