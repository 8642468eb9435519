"""What the broker costs: the same queries over connections of this process and over the broker's, in turn.

    python benchmarks/broker_latency.py --blocks 60 --queries 100

One simulated station serves both. Blocks of queries alternate, and an instrument takes one client, so that the drivers
of each way connect anew for their block; connecting is not timed. Of each way and query: median over all queries, and
the least block mean, which is what it takes while nothing else uses the processor.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from instruments.broker.client import Broker
from instruments.station import Station, load_station, write_station
from sim_backends.station_process import spawn_station

WARM_UP = 10

QUERIES: dict[str, Callable[[Station], object]] = {
    "board: last action": lambda station: station.array._link.last_action(),
    "prober: height": lambda station: station.prober._height(),
}


def block(station: Station, ask: Callable[[Station], object], queries: int) -> list[float]:
    """Seconds of each of some queries."""
    for _ in range(WARM_UP):
        ask(station)
    times = []
    for _ in range(queries):
        began = time.perf_counter()
        ask(station)
        times.append(time.perf_counter() - began)
    return times


def measure(blocks: int, queries: int) -> dict[tuple[str, str], list[list[float]]]:
    """Times of all blocks by query and way."""
    times: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulated = stack.enter_context(spawn_station({"lot": "mtj", "seed": 1, "dies": 1}))
        file = write_station(home / "station.yaml", simulated.prober, simulated.board)
        broker = stack.enter_context(Broker(file, traffic=home / "run.traffic"))
        for _ in range(blocks):
            for way, held in (("direct", None), ("brokered", broker)):
                station = load_station(file, held)
                for name, ask in QUERIES.items():
                    times[name, way].append(block(station, ask, queries))
                station.forget()
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    times = measure(options.blocks, options.queries)
    for name in QUERIES:
        least, median = {}, {}
        for way in ("direct", "brokered"):
            blocks = times[name, way]
            least[way] = min(map(statistics.fmean, blocks))
            median[way] = statistics.median(each for one in blocks for each in one)
            print(f"{name:20s} {way:9s} median {1e6 * median[way]:7.1f} us   least block {1e6 * least[way]:7.1f} us")
        more = {key: 1e6 * (each["brokered"] - each["direct"]) for key, each in (("m", median), ("l", least))}
        print(f"{name:20s} more      median {more['m']:7.1f} us   least block {more['l']:7.1f} us")


if __name__ == "__main__":
    main()
