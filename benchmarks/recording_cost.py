"""What recording and broker cost: `xbar run mtj-mnist --dies 4` as it is, and without them, in turns.

Without: drivers hold their connections themselves, no traffic is written, what was read after a batch of pulses is not
kept. Steps and pulse intents are committed in both. ``python benchmarks/recording_cost.py [repeats]``; takes about four
minutes a repeat.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SETTINGS = ("--dies", "4", "--seed", "0")


def bare() -> None:
    """Take the broker and the kept readings out of this process, then run the command."""
    from instruments.station import load_station
    from protocols.bench import bench
    from protocols.cli import main
    from protocols.sequencer import open_station

    def connect(self, run):
        path = self._station or self._stack.enter_context(
            open_station.simulated_station(self._lot, self._seed, self._out)
        )
        station = self._stack.enter_context(load_station(path))
        self._connected, self._began, self._clock = True, station.elapsed() or 0.0, station.elapsed
        report = self.progress.progress
        return bench.Bench(station.prober, station.array, self._record, run, report=report)

    open_station.StationOpener.__call__ = connect
    bench.LedgeredTester.keep_readings = lambda self, batch, g: None
    main()


def timed(kind: str) -> dict[str, float]:
    """Seconds of one run: whole process's own figure, and the part that was no training."""
    with tempfile.TemporaryDirectory() as home:
        out, numbers = Path(home) / "lot", Path(home) / "run.json"
        arguments = ["run", "mtj-mnist", *SETTINGS, "--out", str(out), "--json", str(numbers)]
        subprocess.run([sys.executable, __file__, f"--{kind}", *arguments], check=True, stdout=subprocess.DEVNULL)
        said = json.loads(numbers.read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    wall, training = float(said["time"]["wall_s"]), float(said["time"]["training_s"])
    return {"wall_s": wall, "without_training_s": wall - training, "MB": size / 1e6}


def main() -> None:
    """Run both kinds in turns and print medians, spreads and the share."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    kinds = {"whole": [], "bare": []}
    for repeat in range(repeats):
        for kind in ("whole", "bare") if repeat % 2 == 0 else ("bare", "whole"):
            kinds[kind].append(timed(kind))
            print(kind, kinds[kind][-1], flush=True)
    for name in ("wall_s", "without_training_s"):
        whole, plain = ([each[name] for each in kinds[kind]] for kind in ("whole", "bare"))
        share = statistics.median(whole) / statistics.median(plain) - 1
        print(f"{name}: with {statistics.median(whole):.1f} ({min(whole):.1f}..{max(whole):.1f}), "
              f"without {statistics.median(plain):.1f} ({min(plain):.1f}..{max(plain):.1f}): {share:+.1%}")  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        del sys.argv[1]
        bare()
    elif sys.argv[1:2] == ["--whole"]:
        del sys.argv[1]
        from protocols.cli import main as command

        command()
    else:
        main()
