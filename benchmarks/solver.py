"""How fast is the array solver? Side by side with badcrossbar and CrossSim, and against a direct float64 solution.

    python benchmarks/solver.py --peers ~/solver_peers --json solver.jsonl

Cells of 1 to 100 uS (log-uniform), rows driven at the left with 0 to 0.3 V, columns grounded at the bottom, 2 ohm per
segment unless a row says otherwise. A time is that of a call from conductances to the currents of all columns, in a
process with one thread that has already solved the same; sides take turns (ours, theirs, ours, theirs, ...), a turn
goes on for 50 ms or one call, and the median of the turns counts. Ratio: their time over ours. Errors: largest error of
a current over the largest current, against a sparse LU solution (scipy, one step of refinement; sinh devices: Newton).

* *As called*: CrossSim from its parameter object on, at its own tolerance (1e-3) or at ours. *Bare loop*: its
  parameters and array made before, not timed; a relaxation factor that it once lowered stays lowered.
* *10,000 vectors*: ours all of them. Theirs one and 200; the time of one, and 9,999 times what a further one takes.
* *Robustness*: CrossSim as called, at its own settings; it may take as long as `--limit` says.
* Apart: the first call of a fresh process with an empty cache of kernels (compile time) and with a full one, and the
  peak memory of a fresh process that solves one vector on 512 x 512 (Linux only).

The peers get an environment of their own (`--peers DIR` keeps it for the next time; otherwise a temporary one):
badcrossbar from PyPI (needs the headers of cairo to build), CrossSim from its repository, or from a source tree
(`--crosssim PATH`). A peer that cannot be had is a row that says why. Only ratios mean something; times depend on the
machine and on what else it does. Needs 3 GB of memory for badcrossbar on 512 x 512 (`--largest 256` leaves it out).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

FloatArray = NDArray[np.float64]

SEED = 0
R_SEGMENT = 2.0  # ohm
ALPHA = 5.0  # 1/V, of the sinh devices
MANY, MEASURED = 10_000, 200  # vectors: ours, and how many of them the peers get
TURN = 0.05  # s that a turn goes on for, at least one call
LONG = 5.0  # s; slower calls are neither warmed up nor repeated more than three times
PATIENCE = 300.0  # s with a side that starts, and with ours
ACCURACY = 1e-9
MEMORY = 300e6  # bytes
AIMS = {64: 0.055e-3, 128: 0.25e-3, 256: 1.65e-3, 512: 11e-3}  # s, half of what the prototype of the solver took

CROSSSIM = "git+https://github.com/sandialabs/cross-sim.git"
OWN = {"tolerance": 1e-3, "iterations": 100, "bare": False}  # CrossSim's own settings
TIGHT = {"tolerance": 1e-9, "iterations": 2000, "bare": False}
ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")
} | {"VECLIB_MAXIMUM_THREADS": "1"}  # fmt: skip


# -- problems, and their direct solution -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """An array and its inputs: `g` ``[M, N]`` in S, `v` ``[K, M]`` in V, `r` in ohm per segment, `alpha` in 1/V."""

    g: FloatArray
    v: FloatArray
    r: float = R_SEGMENT
    alpha: float = 0.0

    def save(self, file: Path) -> str:
        """For the sides."""
        np.savez(file, g=self.g, v=self.v, r=self.r, alpha=self.alpha)
        return str(file)


def draw(size: int, vectors: int = 1, r: float = R_SEGMENT, alpha: float = 0.0) -> Problem:
    """A random square problem, the same for a size whatever else is asked."""
    rng = np.random.default_rng([SEED, size])
    g = np.exp(rng.uniform(np.log(1e-6), np.log(1e-4), (size, size)))
    return Problem(g, rng.uniform(0.0, 0.3, (vectors, size)), r, alpha)


def reference(problem: Problem) -> FloatArray:
    """Currents ``[K, N]`` of the columns (A)."""
    if problem.alpha:
        return np.array([newton(problem, v) for v in problem.v])
    rows, columns = problem.g.shape
    if len(problem.v) > rows:  # linear: solved for one volt on each row, and added up
        return problem.v @ reference(Problem(problem.g, np.eye(rows), problem.r))
    inputs = np.zeros((2, rows, columns, len(problem.v)))
    inputs[0, :, 0] = problem.v.T / problem.r
    return refined(network(problem.g, problem.r), inputs.reshape(-1, len(problem.v)))[-columns:].T / problem.r


def newton(problem: Problem, v: FloatArray) -> FloatArray:
    """Currents ``[N]`` of the columns (A) where every cell carries ``g sinh(alpha v) / alpha``."""
    rows, columns = problem.g.shape
    wires = network(np.zeros_like(problem.g), problem.r)
    inputs = np.zeros((2, rows, columns))
    inputs[0, :, 0] = v / problem.r
    nodes = np.concatenate([np.repeat(v, columns), np.zeros(rows * columns)])
    for _ in range(50):
        across = -np.diff(nodes.reshape(2, rows, columns), axis=0)[0]
        current = problem.g * np.sinh(problem.alpha * across) / problem.alpha
        slope = problem.g * np.cosh(problem.alpha * across)
        excess = wires @ nodes + np.concatenate([current.ravel(), -current.ravel()]) - inputs.ravel()
        step = splu(network(slope, problem.r)).solve(excess)
        nodes -= step
        if np.abs(step).max() < 1e-14:
            return nodes[-columns:] / problem.r
    raise RuntimeError("the reference did not converge")


def network(g: FloatArray, r: float) -> sp.csc_matrix:
    """Nodal matrix (S) of all row nodes ``[row, column]``, then all column nodes."""
    rows, columns = g.shape
    cells = sp.diags(g.ravel())
    along_rows = sp.kron(sp.identity(rows), line(columns)) / r
    along_columns = sp.kron(line(rows)[::-1, ::-1], sp.identity(columns)) / r  # ends at the last row
    return sp.csc_matrix(sp.bmat([[along_rows + cells, -cells], [-cells, along_columns + cells]]))


def line(nodes: int) -> sp.csr_matrix:
    """Nodal matrix of a line of unit resistors that ends in a terminal before its first node."""
    drops = sp.diags([np.ones(nodes), -np.ones(nodes - 1)], [0, -1])  # over each segment, by the voltages of the nodes
    return sp.csr_matrix(drops.T @ drops)


def refined(matrix: sp.csc_matrix, right: FloatArray) -> FloatArray:
    """Solve directly, and once more for what is left."""
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    found = factors.solve(right)
    return found + factors.solve(right - matrix @ found)


def error(found: FloatArray, exact: FloatArray) -> float:
    """Largest error over the largest current."""
    return float(np.abs(found - exact).max() / np.abs(exact).max())


# -- sides: processes that solve -------------------------------------------------------------------------------------


class NoAnswerError(Exception):
    """A side failed, died or took too long."""


class Side:
    """A process of `solver_sides.py`; started again by the next question if it died or had to be stopped."""

    def __init__(self, name: str, python: str, log: Path, environment: dict[str, str] | None = None) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self.importing = 0.0  # s
        self._command = [python, str(Path(__file__).with_name("solver_sides.py")), name]
        self._environment = os.environ | ONE_THREAD | (environment or {})
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; raises `NoAnswerError` if it cannot be."""
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, encoding="utf-8",
            )  # fmt: skip
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, args=(self._process, self._answers), daemon=True).start()
        told = self._hear(PATIENCE)
        self.versions, self.importing = told["versions"], told["importing"]

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.SimpleQueue[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            answers.put(text)
        answers.put("")  # it ended

    def _hear(self, limit: float) -> dict[str, Any]:
        try:
            text = self._answers.get(timeout=limit)
        except queue.Empty:
            self.stop()
            raise NoAnswerError(f"did not settle in {limit:g} s") from None
        if not text:
            self.stop()
            said = self._log.read_text(encoding="utf-8").strip().splitlines()
            raise NoAnswerError(said[-1] if said else "ended without an answer")
        told: dict[str, Any] = json.loads(text)
        if "error" in told:
            raise NoAnswerError(told["error"])
        return told

    def ask(
        self, problem: str, way: dict[str, Any], *, limit: float, seconds: float = TURN, save: Path | None = None
    ) -> dict[str, Any]:
        """Let it solve a problem for some time; the median time of a call (s) and more."""
        if self._process is None:
            self.start()
        assert self._process is not None and self._process.stdin is not None
        question = {"problem": problem, "way": way, "seconds": seconds, "save": save and str(save)}
        with suppress(OSError):  # it has ended; heard next
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._hear(limit)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._process = None


class Missing:
    """A peer that could not be had."""

    def __init__(self, name: str, why: str) -> None:
        self.name, self.why = name, why
        self.versions: dict[str, str] = {}

    def ask(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Say why not."""
        raise NoAnswerError(self.why)

    def stop(self) -> None:
        """There is nothing to end."""


Peer = Side | Missing


# -- the peers' environment ------------------------------------------------------------------------------------------


def interpreter(folder: Path) -> str:
    """The interpreter of a virtual environment in a folder, which is made if there is none."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return str(python)


def install(python: str, module: str, *requirements: str) -> str | None:
    """Install a peer unless its module is there; why it could not be, if so."""
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0:
        return None
    print("installing", *requirements, flush=True)
    quiet = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return None
    told = [text.strip() for text in done.stderr.splitlines()]
    fatal = [text for text in told if text.lower().startswith("fatal")]
    errors = [text for text in told if text.lower().startswith("error")]
    return f"not installed: {(fatal or errors or ['pip failed'])[-1]}"


@contextmanager
def peers(folder: Path, crosssim: Path | None, home: Path) -> Iterator[tuple[Peer, Peer]]:
    """badcrossbar and CrossSim, ready or missing."""
    python = interpreter(folder)
    base = install(python, "numpy, scipy", "numpy", "scipy")
    wanted = {
        "badcrossbar": base or install(python, "badcrossbar", "badcrossbar"),
        "crosssim": base or (None if crosssim else install(python, "simulator", CROSSSIM)),
    }
    path = {"PYTHONPATH": str(crosssim.resolve())} if crosssim else {}
    with ExitStack() as stack:
        found: list[Peer] = []
        for name, why in wanted.items():
            peer: Peer = Missing(name, why) if why else ready(name, python, home, path if name == "crosssim" else {})
            stack.callback(peer.stop)
            found.append(peer)
        yield found[0], found[1]


def ready(name: str, python: str, home: Path, environment: dict[str, str]) -> Peer:
    """A peer that has started, or says why it did not."""
    side = Side(name, python, home / f"{name}.log", environment)
    try:
        side.start()
    except NoAnswerError as failure:
        return Missing(name, str(failure))
    return side


# -- comparisons -----------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of the turns of a side: median time (s), error of the largest current, number of turns, a note."""

    seconds: float | None
    error: float | None
    turns: int
    note: str


@dataclass
class Row:
    """A line of the table; times in s."""

    case: str
    peer: str
    target: float | None = None  # smallest ratio that is promised
    aim: float | None = None  # our time, s
    ours: float | None = None
    theirs: float | None = None
    our_error: float | None = None  # of the largest current
    their_error: float | None = None
    turns: int = 0
    note: str = ""
    load: float | None = field(default_factory=lambda: os.getloadavg()[0] if hasattr(os, "getloadavg") else None)

    @property
    def ratio(self) -> float | None:
        """Their time over ours."""
        return self.theirs / self.ours if self.ours and self.theirs else None

    @property
    def held(self) -> bool | None:
        """Whether it is as promised, accuracy and ratio; None where there is no ratio to judge."""
        if self.our_error is None or (self.target and self.ratio is None):
            return None
        enough = self.target is None or self.ratio is None or self.ratio >= self.target
        return enough and self.our_error <= ACCURACY


class Comparison:
    """Sides take turns on problems; keeps the rows and says them as they come."""

    def __init__(self, home: Path, ours: Side, repeats: int, limit: float, report: Path | None) -> None:
        self.home, self.ours, self.repeats, self.limit = home, ours, repeats, limit
        self.rows: list[Row] = []
        self.about: dict[str, Any] = {"seed": SEED, "machine": machine()}
        self._report = report
        self._exact: dict[str, FloatArray] = {}

    def file(self, name: str, problem: Problem) -> str:
        """A problem for the sides, with its direct solution."""
        path = self.home / f"{name}.npz"
        if str(path) not in self._exact:
            self._exact[problem.save(path)] = reference(problem)
        return str(path)

    def turns(self, *sides: tuple[Peer, str, dict[str, Any]]) -> list[Outcome]:
        """Sides solve a problem each, in a way each, turn after turn."""
        times: list[list[float]] = [[] for _ in sides]
        errors: list[float | None] = [None for _ in sides]
        failures = ["" for _ in sides]
        for turn in range(self.repeats + 1):
            for at, (side, problem, way) in enumerate(sides):
                if failures[at] or (times[at] and times[at][0] > LONG and turn > 2):
                    continue
                saved = None if turn else self.home / "currents.npz"
                limit = PATIENCE if side is self.ours else self.limit  # ours may have to compile
                try:
                    took = side.ask(problem, way, limit=limit, save=saved)["seconds"]
                except NoAnswerError as failure:
                    failures[at] = str(failure)
                    continue
                if saved:
                    with np.load(saved, allow_pickle=False) as found:
                        errors[at] = error(found["currents"], self._exact[problem])
                if turn or (took > LONG and side is not self.ours):  # the first one warms up, and ours compiles
                    times[at].append(took)
        return [
            Outcome(None, None, 0, failure) if failure else Outcome(statistics.median(took), wrong, len(took), "")
            for took, wrong, failure in zip(times, errors, failures, strict=True)
        ]

    def compare(self, row: Row, problem: str, peer: Peer, way: dict[str, Any]) -> None:
        """One problem, ours and theirs."""
        ours, theirs = self.turns((self.ours, problem, {}), (peer, problem, way))
        self.keep(row, ours, theirs)

    def compare_many(self, row: Row, many: str, one: str, some: str, peer: Peer, way: dict[str, Any]) -> None:
        """Many vectors; theirs from the times of one and of some."""
        ours, first, theirs = self.turns((self.ours, many, {}), (peer, one, way), (peer, some, way))
        if first.seconds and theirs.seconds:
            each = (theirs.seconds - first.seconds) / (MEASURED - 1)
            told = f"theirs: {1e3 * each:.2f} ms a vector, of {MEASURED}"
            theirs = theirs._replace(seconds=first.seconds + each * (MANY - 1), note=told)
        self.keep(row, ours, theirs)

    def keep(self, row: Row, ours: Outcome, theirs: Outcome) -> None:
        """A row for the table."""
        if ours.seconds is None:
            raise SystemExit(f"xbarlab, {row.case}: {ours.note}")
        row.ours, row.our_error = ours.seconds, ours.error
        row.theirs, row.their_error, row.turns, row.note = theirs
        self.rows.append(row)
        self.say({**vars(row), "ratio": row.ratio, "held": row.held})

    def say(self, what: dict[str, Any]) -> None:
        """Print a line of JSON, and append it to the report if there is one."""
        print(json.dumps(what), flush=True)
        if self._report is not None:
            with self._report.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**what, **self.about}) + "\n")


def machine() -> dict[str, Any]:
    """What it ran on."""
    info, name = Path("/proc/cpuinfo"), platform.processor()
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")), name)
    return {"system": platform.platform(), "processor": name, "cores": os.cpu_count()}


def single_vectors(run: Comparison, badcrossbar: Peer, crosssim: Peer, largest: int) -> None:
    """One vector from raw conductances."""
    for size in (64, 128, 256, 512):
        if size <= largest:
            row = Row(f"one vector, {size} x {size}", "badcrossbar", target=150.0, aim=AIMS[size])
            run.compare(row, run.file(f"one{size}", draw(size)), badcrossbar, {})
    for size in (8, 16, 32, 64, 128):
        row = Row(f"one vector, {size} x {size}", "CrossSim as called, 1e-3", target=20.0, aim=AIMS.get(size))
        run.compare(row, run.file(f"one{size}", draw(size)), crosssim, OWN)
    for tolerance, way in (("1e-3", OWN), ("1e-9", TIGHT)):
        row = Row("one vector, 64 x 64", f"CrossSim bare loop, {tolerance}", target=8.0, aim=AIMS[64])
        run.compare(row, run.file("one64", draw(64)), crosssim, {**way, "bare": True})


def many_vectors(run: Comparison, badcrossbar: Peer, crosssim: Peer) -> None:
    """Ten thousand vectors on the same conductances."""
    problem = draw(64, MANY)
    many, one, some = (
        run.file(f"vectors{count}", Problem(problem.g, problem.v[:count], problem.r)) for count in (MANY, 1, MEASURED)
    )
    bare = {**OWN, "bare": True}
    ways: list[tuple[str, Peer, dict[str, Any]]] = [
        ("badcrossbar", badcrossbar, {}),
        ("CrossSim bare loop, 1e-3, as a batch", crosssim, bare),
        ("CrossSim bare loop, 1e-3, one by one", crosssim, {**bare, "one_by_one": True}),
    ]
    for name, peer, way in ways:
        run.compare_many(Row(f"{MANY:,} vectors, 64 x 64", name, target=100.0), many, one, some, peer, way)


def sinh_devices(run: Comparison, crosssim: Peer) -> None:
    """Devices that carry ``g sinh(alpha v) / alpha``."""
    problem = run.file("sinh64", draw(64, alpha=ALPHA))
    row = Row(f"sinh devices, {ALPHA:g} /V, 64 x 64", "CrossSim bare loop, 1e-9", target=4.0)
    run.compare(row, problem, crosssim, {**TIGHT, "bare": True})


def robustness(run: Comparison, crosssim: Peer, largest: int) -> None:
    """Lines of a higher resistance."""
    for size in (128, 256):
        for r in (5.0, 20.0):
            if size <= largest:
                problem = run.file(f"robust{size}_{r:g}", draw(size, r=r))
                run.compare(Row(f"{r:g} ohm, {size} x {size}", "CrossSim as called, 1e-3"), problem, crosssim, OWN)


def first_calls(run: Comparison) -> list[str]:
    """What the first call of a process costs, with an empty and with a full cache of compiled kernels."""
    problems = {
        "one vector": run.file("one64", draw(64)),
        f"{MEASURED} vectors": run.file(f"vectors{MEASURED}", draw(64, MEASURED)),
        "sinh devices": run.file("sinh64", draw(64, alpha=ALPHA)),
    }
    told = []
    for what, problem in problems.items():
        with tempfile.TemporaryDirectory() as cache:
            empty, full = (fresh(run, problem, {"NUMBA_CACHE_DIR": cache})["first"] for _ in range(2))
        run.say({"first call, 64 x 64": what, "empty cache": empty, "full cache": full})
        told.append(
            f"first call, {what}, 64 x 64: {empty:.2f} s with an empty cache of kernels, {full:.2f} s with a full"
        )
    return told


def memory(run: Comparison) -> str:
    """Peak memory of a process that solves one vector on the largest array."""
    held = fresh(run, run.file("one512", draw(512)), {})["memory"]
    run.say({"peak memory, 512 x 512": held, "target": MEMORY})
    told = "not measured on this system" if held is None else f"{held / 1e6:.0f} MB (target: below {MEMORY / 1e6:.0f})"
    return f"peak memory of a process that solves one vector, 512 x 512: {told}"


def fresh(run: Comparison, problem: str, environment: dict[str, str]) -> dict[str, Any]:
    """One call of ours in a process of its own."""
    side = Side("xbarlab", sys.executable, run.home / "fresh.log", environment)
    try:
        return side.ask(problem, {}, limit=PATIENCE, seconds=0.0)
    finally:
        side.stop()


# -- all of it -------------------------------------------------------------------------------------------------------


def shown(seconds: float | None) -> str:
    """A time as the table says it."""
    if seconds is None:
        return ""
    return f"{1e3 * seconds:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"


def show(rows: list[Row]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    heads = ("", "peer", "ours", "peer's", "ratio", "target", "held", "error, ours", "error, peer", "aim, ours", "")
    table = Table(*heads, title="solver: median times of a call")
    for row in rows:
        ratio, target = (f"{x:,.3g}" if x else "" for x in (row.ratio, row.target))
        held = {True: "yes", False: "[red]NO[/red]", None: ""}[row.held]
        errors = ("" if x is None else f"{x:.0e}" for x in (row.our_error, row.their_error))
        times = (shown(row.ours), shown(row.theirs), ratio, target, held)
        table.add_row(row.case, row.peer, *times, *errors, shown(row.aim), escape(row.note))
    Console(width=190).print(table)


def main() -> None:
    """Measure everything, one after another, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a peer may take for a call")
    parser.add_argument("--largest", type=int, default=512, help="leave out larger arrays")
    parser.add_argument("--peers", type=Path, help="folder of the peers' environment, made if it is not there")
    parser.add_argument("--crosssim", type=Path, help="source tree of CrossSim")
    parser.add_argument("--json", type=Path, help="file for one line of JSON per row")
    options = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = Side("xbarlab", sys.executable, home / "xbarlab.log")
        stack.callback(ours.stop)
        run = Comparison(home, ours, options.repeats, options.limit, options.json)
        badcrossbar, crosssim = stack.enter_context(peers(options.peers or home / "peers", options.crosssim, home))
        ours.start()
        run.about["versions"] = {side.name: side.versions for side in (ours, badcrossbar, crosssim)}
        print(json.dumps(run.about), flush=True)
        single_vectors(run, badcrossbar, crosssim, options.largest)
        many_vectors(run, badcrossbar, crosssim)
        sinh_devices(run, crosssim)
        robustness(run, crosssim, options.largest)
        apart = first_calls(run)
        if options.largest >= 512:
            apart.append(memory(run))
    show(run.rows)
    print(*apart, f"importing the solver: {ours.importing:.2f} s", sep="\n")


if __name__ == "__main__":
    main()
