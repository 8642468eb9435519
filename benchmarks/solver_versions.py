"""The array solver of two checkouts, side by side in one process: what a change of it costs, and what it changes.

    python solver_versions.py OTHER_CHECKOUT [--repeats 41]

Both solve the same problems in turns; told are the median ratio of their processor times (this one over the other), and
the largest difference of a terminal current, of the largest one.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Call = Callable[[], Any]


class Version:
    """The solver of one checkout; modules of both live in one process under the same names, by turns."""

    def __init__(self, folder: Path) -> None:
        self._modules: dict[str, ModuleType] = {}
        self.use()
        sys.path.insert(0, str(folder))
        self.network, self.conduction, self.transistor = (
            importlib.import_module(f"sim_backends.array.{name}")
            for name in ("network", "devices.conduction", "devices.transistor")
        )
        importlib.import_module("sim_backends.array.solver.newton")
        sys.path.remove(str(folder))
        self._modules = {name: module for name, module in sys.modules.items() if _ours(name)}
        if Path(str(self.network.__file__)).resolve().parents[2] != folder.resolve():
            raise SystemExit(f"{folder} is no checkout: the solver came from {self.network.__file__}")

    def use(self) -> None:
        """Make its modules those that are found by their names: some are imported when they are first needed."""
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(self._modules)


def _ours(name: str) -> bool:
    return name.partition(".")[0] == "sim_backends"


def problems(version: Version) -> dict[str, Call]:
    """What is solved, by name."""
    network: ModuleType = version.network
    rng = np.random.default_rng(1)
    lines = network.Lines(2.0, 2.0)
    out: dict[str, Call] = {}
    for size in (8, 25, 64, 128, 256):
        g, v = np.exp(rng.uniform(np.log(1e-6), np.log(1e-4), (size, size))), rng.uniform(0, 0.3, (200, size))
        add(out, f"{size} x {size}, one vector", network, g, left=v[0], bottom=0.0, lines=lines)
        if size in (25, 64):
            many = rng.uniform(0.5, 1.5, (50, 1, 1)) * g
            add(out, f"{size} x {size}, cells too", network, g, left=v[0], bottom=0.0, lines=lines, cells=True)
            add(out, f"{size} x {size}, 200 vectors", network, g, left=v, bottom=0.0, lines=lines)
            add(out, f"{size} x {size}, 50 arrays", network, many, left=v[0], bottom=0.0, lines=lines)
            add(out, f"{size} x {size}, floating", network, g, left=v[0], top=open_but(size), lines=lines)
        if size <= 64:
            perfect = network.Lines(0.0, 2.0)
            add(out, f"{size} x {size}, direct", network, g, left=v[0], bottom=0.0, lines=perfect)
    g, v = np.exp(rng.uniform(np.log(1e-6), np.log(1e-4), (64, 64))), rng.uniform(0, 1.0, 64)
    for name, devices in (
        ("sinh", version.conduction.Sinh(g, 2.7)),
        ("steep sinh", version.conduction.Sinh(g, 12.0)),
        ("cubic", version.conduction.Cubic(g, g)),
        ("transistors", version.transistor.Transistor(g, gate=1.5, v_threshold=0.5, kp=5e-4)),
    ):
        for kind, sources in (("held", {"bottom": 0.0}), ("floating", {"bottom": open_but(64)})):
            add(out, f"64 x 64 {name}, {kind}", network, devices, left=v, lines=lines, **sources)
    return out


def open_but(columns: int) -> Any:
    """Grounds at every fourth column."""
    return np.where(np.arange(columns) % 4 == 0, 0.0, np.nan)


def add(out: dict[str, Call], name: str, network: ModuleType, devices: Any, **given: Any) -> None:
    """Put one call among the problems."""
    out[name] = lambda: network.solve(devices, **given)


def call(version: Version, solve: Call) -> Any:
    """What one call gives."""
    version.use()
    return solve()


def timed(version: Version, solve: Call, least: float = 2e-3) -> float:
    """Processor time (s) of one call, from so many that they last a while: a busy machine disturbs it less."""
    version.use()
    solve()
    count, began = 0, time.process_time()
    while True:
        solve()
        count += 1
        took = time.process_time() - began
        if took >= least:
            return took / count


def terminals(solution: Any) -> Any:
    """All terminal currents in one array."""
    return np.concatenate([getattr(solution, f"i_{side}") for side in ("left", "right", "top", "bottom")], axis=-1)


def main() -> None:
    """Compare, and print a line for each problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="checkout to compare with")
    parser.add_argument("--repeats", type=int, default=41, help="turns of each")
    given = parser.parse_args()
    other, this = Version(given.other), Version(Path(__file__).parents[1])
    theirs, ours = problems(other), problems(this)
    print(f"{'':32s} {'ours':>10s} {'ratio':>7s}  difference of currents")
    for name in ours:
        here, there = terminals(call(this, ours[name])), terminals(call(other, theirs[name]))
        difference = np.abs(here - there).max() / np.abs(there).max()
        turns = [(timed(this, ours[name]), timed(other, theirs[name])) for _ in range(given.repeats)]
        mine = statistics.median(turn[0] for turn in turns)
        ratio = statistics.median(turn[0] / turn[1] for turn in turns)
        print(f"{name:32s} {mine * 1e6:8.1f} us {ratio:7.3f}  {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
