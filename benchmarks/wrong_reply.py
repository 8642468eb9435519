"""Can a program be handed somebody else's answer? PyVISA, QCoDeS, PyMeasure and xbarlab.

    python benchmarks/wrong_reply.py --json wrong_reply.jsonl

* Sessions, on a loopback instrument that echoes what it is asked. *Late reply*: a query is given up after 0.1 s, its
  answer comes after 0.3 s. Then comes the *next* query, when the answer is there; or *at once*, again and again until
  something answers; or after the session was got *in step again* as the package has it (clear, flush; xbarlab:
  `reopen`, which its drivers do by themselves). *Two threads*: each asks its own question 1,000 times.
* xbarlab's drivers, on the simulated station, whose every n-th reply is 0.3 s late: values read by two threads are
  compared with those of a station without faults, pulses with the station's physical log.

Counted: right values, WRONG VALUEs, errors raised. Sessions and drivers of xbarlab are measured with their connections
in the program itself and in the broker.
"""

from __future__ import annotations

import argparse
import json
import logging
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from instruments.broker.client import Broker
from instruments.roles.interfaces import InstrumentError
from instruments.wire.sessions import open_port, open_visa, through

PATIENCE, LATE = 0.1, 0.3  # s
RIGHT, WRONG = "right", "WRONG VALUE"
LATE_WAYS = ("next", "at once", "in step again")
Ask = Callable[[str], str]


class Echo:
    """Answers ``A?`` with ``A`` and so on; ``SLOW?`` only after `LATE`."""

    def __enter__(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if line == b"SLOW?\n":
                        time.sleep(LATE)
                    connection.sendall(line.replace(b"?", b""))
        except OSError:
            return


# -- packages: how each opens a session, asks, and gets into step again ----------------------------------------------


@contextmanager
def pyvisa_session(port: int) -> Iterator[tuple[Ask, Callable[[], object]]]:
    """A message-based resource."""
    import pyvisa

    resource = pyvisa.ResourceManager("@py").open_resource(
        f"TCPIP::127.0.0.1::{port}::SOCKET", read_termination="\n", write_termination="\n", timeout=1e3 * PATIENCE
    )
    yield resource.query, resource.clear
    resource.close()


@contextmanager
def qcodes_session(port: int) -> Iterator[tuple[Ask, Callable[[], object]]]:
    """A `VisaInstrument` with a parameter for every question."""
    from qcodes.instrument import VisaInstrument

    class EchoInstrument(VisaInstrument):
        """As drivers are written."""

        default_terminator = "\n"
        default_timeout = PATIENCE

        def __init__(self, name: str, address: str, **settings: Any) -> None:
            super().__init__(name, address, **settings)
            for word in ("A", "B", "SLOW"):
                self.add_parameter(word, get_cmd=f"{word}?")

    address = f"TCPIP::127.0.0.1::{port}::SOCKET"
    instrument = EchoInstrument(f"echo{port}", address, visalib="@py", device_clear=False)
    yield lambda text: str(instrument.parameters[text.rstrip("?")].get()), instrument.device_clear
    instrument.close()


@contextmanager
def pymeasure_session(port: int) -> Iterator[tuple[Ask, Callable[[], object]]]:
    """An `Instrument` on a `VISAAdapter`."""
    from pymeasure.adapters import VISAAdapter
    from pymeasure.instruments import Instrument

    adapter = VISAAdapter(
        f"TCPIP::127.0.0.1::{port}::SOCKET", visa_library="@py", read_termination="\n", write_termination="\n",
        timeout=1e3 * PATIENCE,
    )  # fmt: skip
    yield Instrument(adapter, "echo", includeSCPI=False).ask, adapter.flush_read_buffer
    adapter.close()


@contextmanager
def own_visa(port: int) -> Iterator[tuple[Ask, Callable[[], object]]]:
    """xbarlab's lines of text."""
    session = open_visa(f"TCPIP::127.0.0.1::{port}::SOCKET", timeout=PATIENCE)
    yield session.query, session.reopen
    session.close()


@contextmanager
def own_port(port: int) -> Iterator[tuple[Ask, Callable[[], object]]]:
    """xbarlab's bytes."""
    session = open_port(f"socket://127.0.0.1:{port}", timeout=PATIENCE)
    yield lambda text: session.query(f"{text}\n".encode(), b"\n").decode(), session.reopen
    session.close()


@contextmanager
def in_broker(station: Path | None = None) -> Iterator[Broker]:
    """A broker; sessions opened inside are held by it."""
    with ExitStack() as stack:
        station = station or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "echo.yaml"
        broker = stack.enter_context(Broker(station, lease=60.0))
        stack.enter_context(through(broker))
        yield broker


def brokered(opened: Callable[[int], Any]) -> Callable[[int], Any]:
    """The same session, held by a broker."""

    @contextmanager
    def session(port: int) -> Iterator[tuple[Ask, Callable[[], object]]]:
        with in_broker(), opened(port) as found:
            yield found

    return session


PEERS = {"PyVISA": pyvisa_session, "QCoDeS": qcodes_session, "PyMeasure": pymeasure_session}
OURS = {
    "xbarlab VISA session": own_visa,
    "xbarlab VISA session, broker": brokered(own_visa),
    "xbarlab port session": own_port,
    "xbarlab port session, broker": brokered(own_port),
}


# -- sessions --------------------------------------------------------------------------------------------------------


def late_replies(opened: Callable[[int], Any], trials: int, *, then: str) -> Counter[str]:
    """Give up a query, then make the next one, as `then` says: ``next``, ``at once`` or ``in step again``."""
    tally: Counter[str] = Counter()
    for _ in range(trials):
        with Echo() as port, opened(port) as (ask, recover):
            if asked(ask, "SLOW?") in (RIGHT, WRONG):
                raise RuntimeError("the late reply was not late")
            if then == "at once":
                for _ in range(6):
                    if (heard := asked(ask, "A?")) in (RIGHT, WRONG):
                        break
            else:
                time.sleep(LATE)
                if then == "in step again":
                    recover()
                heard = asked(ask, "A?")
        tally[heard] += 1
    return tally


def two_threads(opened: Callable[[int], Any], queries: int) -> Counter[str]:
    """Two threads of a program ask the same instrument, each its own question."""
    with Echo() as port, opened(port) as (ask, _):
        return at_once(*([lambda question=f"{word}?": asked(ask, question)] * queries for word in "AB"))


def asked(ask: Ask, question: str) -> str:
    """What became of a question."""
    try:
        return RIGHT if ask(question).strip() == question.rstrip("?") else WRONG
    except Exception as error:  # whatever the package raises
        return type(error).__name__


def at_once(*work: list[Callable[[], str]]) -> Counter[str]:
    """Do lists of things, each list in a thread of its own; counts what they give."""
    tally: Counter[str] = Counter()

    def do(things: list[Callable[[], str]]) -> None:
        until = time.monotonic() + 60.0
        heard = Counter(thing() for thing in things if time.monotonic() < until)
        with lock:
            tally.update(heard)

    lock = threading.Lock()
    threads = [threading.Thread(target=do, args=(things,)) for things in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def measure_session(opened: Callable[[int], Any], trials: int, queries: int) -> dict[str, Counter[str]]:
    """All that is measured of a kind of session."""
    late = {f"late reply, {then}": late_replies(opened, trials, then=then) for then in LATE_WAYS}
    return {**late, f"two threads x {queries}": two_threads(opened, queries)}


# -- drivers ---------------------------------------------------------------------------------------------------------

LATE_AT_STATION = [
    {"kind": "late_reply", "where": "board", "matching": ["READ"], "every": 7, "seconds": LATE},
    {"kind": "late_reply", "where": "board", "matching": ["PULSE"], "every": 4, "seconds": LATE},
    {"kind": "late_reply", "where": "prober", "matching": ["map:path:get_die"], "every": 11, "seconds": LATE},
]
KERNELS = (0, 9, 20, 31)


@contextmanager
def touched_die(faults: list[dict[str, Any]], broker: bool) -> Iterator[tuple[Any, Path]]:
    """The drivers of a simulated station with the needles down on its first die, and its log; left safely."""
    from instruments.station import load_station
    from sim_backends.station_process import spawn_station

    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log, file = home / "physical.jsonl", home / "station.yaml"
        served = stack.enter_context(spawn_station({"lot": "mtj", "dies": 5, "log": log, "faults": faults}))
        soon = {"timeout": "100 ms"}
        prober = {"type": "instruments.drivers.sentio.Sentio", "address": served.prober, "init": soon}
        array = {"type": "instruments.drivers.board.FramedBoard", "address": served.board, "init": soon}
        file.write_text(yaml.safe_dump({"instruments": {"prober": prober, "array": array}}), encoding="utf-8")
        held = stack.enter_context(in_broker(file)) if broker else None
        station = stack.enter_context(load_station(file, held))
        station.prober.first_die()
        station.prober.contact()
        yield station, log


@cache
def right_values() -> tuple[Any, Any, np.ndarray]:
    """Sites of all dies, where the prober is, and currents of `KERNELS`, over a wire on which nothing is late."""
    with touched_die([], broker=False) as (station, _):
        known = np.stack([station.array.read(kernel, 0.1) for kernel in KERNELS])
        return station.prober.die_sites(), station.prober.where(), known


def measure_drivers(broker: bool, rounds: int) -> dict[str, Counter[str]]:
    """Values that the drivers give over a wire with late replies, compared with those over one without."""
    sites, here, known = right_values()
    with touched_die(LATE_AT_STATION, broker) as (station, log):
        prober, array = station.prober, station.array

        def read(at: int) -> str:
            off = np.abs(known - array.read(KERNELS[at], 0.1)).sum((1, 2))
            return RIGHT if off.argmin() == at else WRONG

        looks = {
            "FramedBoard, reads": [lambda at=at: told(lambda: read(at)) for at in range(len(KERNELS))],
            "Sentio, questions": [
                lambda: told(lambda: RIGHT if prober.die_sites() == sites else WRONG),
                lambda: told(lambda: RIGHT if prober.where() == here else WRONG),
            ],
        }
        found = {what: at_once(each * rounds, each[::-1] * rounds) for what, each in looks.items()}
        return {**found, "FramedBoard, pulses": fired(station, log, 4 * rounds)}


def told(question: Callable[[], str]) -> str:
    """What became of it."""
    try:
        return question()
    except InstrumentError as error:
        return type(error).__name__


def fired(station: Any, log: Path, count: int) -> Counter[str]:
    """Fire pulses one by one; every one that happened twice or never is a wrong one."""
    mask = np.zeros((25, 25), bool)
    mask[::5] = True
    errors = Counter(told(lambda: station.array.pulse(0, mask, 0.9, 200e-9) or RIGHT) for _ in range(count))
    station.array.idle("hard_ground")
    station.prober.separate()  # the log is complete then
    happened = sum(json.loads(line)["what"] == "pulse" for line in log.read_text(encoding="utf-8").splitlines())
    wrong = abs(happened - count)
    return errors - Counter({RIGHT: wrong}) + Counter({WRONG: wrong})


# -- all of it -------------------------------------------------------------------------------------------------------


def said(tally: Counter[str]) -> str:
    """As the table says it: wrong values first."""
    total = sum(tally.values())
    parts = [f"{tally[WRONG]} wrong ({tally[WRONG] / total:.0%})" if tally[WRONG] else "0 wrong"]
    parts += [f"{count} {what}" for what, count in sorted(tally.items(), reverse=True) if what != WRONG]
    return ", ".join(parts)


def show(title: str, rows: dict[str, dict[str, Counter[str]]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    if rows:
        table = Table("", *next(iter(rows.values())), title=title)
        for who, row in rows.items():
            table.add_row(who, *map(said, row.values()))
        Console(width=160).print(table)


def main() -> None:
    """Measure everything, one after another, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10, help="of every late reply")
    parser.add_argument("--queries", type=int, default=1000, help="of each of two threads")
    parser.add_argument("--rounds", type=int, default=50, help="of each thread over what a driver is asked")
    parser.add_argument("--json", type=Path, help="file for one line of JSON per row")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # every late reply is one
    versions = {name: version(name) for name in ("xbarlab", "pyvisa", "pyvisa-py", "qcodes", "pymeasure")}
    print(json.dumps(versions))
    sessions, drivers = {}, {}
    for who, opened in {**PEERS, **OURS}.items():
        sessions[who] = measure_session(opened, options.trials, options.queries)
        keep(options.json, {"who": who, **sessions[who], "versions": versions})
    for who, broker in (("xbarlab", False), ("xbarlab, broker", True)):
        drivers[who] = measure_drivers(broker, options.rounds)
        keep(options.json, {"who": f"{who}: drivers", **drivers[who], "versions": versions})
    show("sessions", sessions)
    show("drivers, replies late", drivers)


def keep(path: Path | None, row: dict[str, Any]) -> None:
    """Print a row as JSON, and append it to a file if there is one."""
    line = json.dumps(row)
    print(line, flush=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
