"""Connecting to the station of a run: a bench by its station file, or a simulated one that is started for the run."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from analysis.record.own_files import check_output, is_station, sealed, write_whole
from analysis.record.record import Record
from instruments.broker.client import Broker, BrokerError
from instruments.plain_yaml import read_text
from protocols.bench.bench import Bench
from protocols.sequencer.left_broker import KnownBroker, broker_file, known_broker, recipes_file
from protocols.terminal.progress import RunProgress

if TYPE_CHECKING:
    from instruments.station import Station

#: Seconds of silence with the needles down after which a program is taken to hang (assumed).
LEASE = 30.0
#: What follows the name of a lot whose simulated station has a rack in place of the board.
RACK = "@rack"


def traffic_file(folder: Path, run: int) -> Path:
    """The traffic of a run of a lot."""
    return folder / "traffic" / f"run-{run:04d}.traffic"


class OtherStationError(RuntimeError):
    """The station is not the one of the record; the message names both."""


class StationOpener:
    """Connects to the station when the first step needs it, and starts a simulated one if none was given.

    A broker process holds the connections: it makes the station safe when this program is gone or hangs.
    """

    def __init__(self, stack: ExitStack, record: Record, station: Path | None, lot: str, seed: int, out: Path) -> None:
        self._stack, self._record, self._station = stack, record, station
        self._lot, self._seed, self._out = lot, seed, out
        self._clock: Callable[[], float | None] = lambda: None
        self._connected, self._began = False, 0.0
        self._bench: Bench | None = None
        self.progress: RunProgress | None = None
        self.lease = LEASE

    def __call__(self, run: int) -> Bench:
        """Connect, once, and return the bench of the run."""
        from instruments.station import load_station

        path = self._station or self._stack.enter_context(simulated_bench(self._lot, self._seed, self._out))
        broker = self._stack.enter_context(self._broker(path, run))
        station = self._stack.enter_context(load_station(path, broker))
        self._connected, self._began = True, station.elapsed() or 0.0  # the clock of a station goes on over runs
        self._clock = station.elapsed
        describe_station(self._record, run, path, station)
        self._bench = Bench(
            station.prober,
            station.array,
            self._record,
            run,
            parts=station.parts(),
            lease=broker,
            make_safe=lambda: station.safe("the run was aborted"),
            report=self.progress.progress if self.progress else (lambda text, share: None),
            clock=station.elapsed,
        )
        return self._bench

    def station_time(self) -> float | None:
        """Seconds by the station's own clock since this run connected to it, if it keeps one."""
        now = self._clock()
        if now is None or now < self._began:  # set back: it tells nothing of this run any more
            return None
        return now - self._began + (self._bench.waited if self._bench else 0.0)

    def spent(self, wall: float) -> float:
        """Station time of a run of `wall` seconds: the wall's where the station has no clock, 0 without a station."""
        if not self._connected:
            return 0.0
        by_clock = self.station_time()
        return wall if by_clock is None else by_clock

    @contextmanager
    def _broker(self, path: Path, run: int) -> Iterator[Broker]:
        """The broker of the station, and a file that tells other programs how to reach it."""
        before = _left_by_an_earlier_run(self._out)
        token = secrets.token_hex(16)
        outlives = recipes_file(token) if self._station else None  # a station that this run has started ends with it
        with Broker(path, lease=self.lease, traffic=traffic_file(self._out, run), token=token,
                    recipes=outlives) as broker:  # fmt: skip
            if before is not None:
                before.forget()
            KnownBroker(broker.port, token, broker.pid, psutil.Process(broker.pid).create_time(), run).keep(self._out)
            try:
                yield broker
            finally:
                broker_file(self._out).unlink(missing_ok=True)


def _left_by_an_earlier_run(folder: Path) -> KnownBroker | None:
    """The broker of an earlier run, if there is a trace of it.

    Raises
    ------
    BrokerError
        It holds the instruments and hangs: nobody would be let in.
    """
    known = known_broker(folder)
    if known is not None and known.process() is not None:
        try:
            known.visit().end()
        except BrokerError as error:
            if known.process() is not None:  # it may just have ended
                how = "was stopped" if known.stopped() else "does not answer"
                raise BrokerError(
                    f"process {known.pid}, the broker of run {known.run}, holds the instruments and {how}. End it with "
                    f"xbar abort {folder}, which makes the station safe; then go on with xbar resume {folder}"
                ) from error
    return known


def describe_station(record: Record, run: int, path: Path, station: Station) -> None:
    """Keep what the station is: its file, who its instruments are, their calibrations, their snapshot.

    Raises
    ------
    OtherStationError
        If an instrument is not the one with which the dies of this record were surveyed.
    """
    record.event(run, "station", f"connected by {path}", station=read_text(Path(path)))
    array = station.array
    identities = {"prober": station.prober.identify(), "array": array.identify()}
    _check_same(record, run, identities)
    calibrations = {str(each.index): _calibration(array, each.index) for each in array.capabilities().ranges}
    record.event(run, "instruments", "as they say", identities=identities, calibrations=calibrations)
    record.event(run, "snapshot", "QCoDeS snapshot", snapshot=_snapshot(station))


def _check_same(record: Record, run: int, identities: dict[str, str]) -> None:
    """Refuse to go on with results of other instruments; a new firmware makes none of them another."""
    (protocol,) = (known["protocol"] for known in record.runs() if known["id"] == run)
    for survey in record.history(protocol, "")[:1]:
        known = record.load(survey).attrs
        for name, now in identities.items():
            if now.split(",")[:3] != str(known.get(name, now)).split(",")[:3]:
                raise OtherStationError(
                    f"instruments.{name} is {now!r}, but the dies in {record.folder} were surveyed with "
                    f"{known[name]!r}. Nothing has moved. Connect that one, or begin another folder with --out"
                )


def _calibration(array: Any, index: int) -> str:
    """Name of the calibration of a range; a range without one is no fault as long as nobody uses it."""
    from instruments.roles.interfaces import InstrumentError

    try:
        return str(array.calibration_id(index))
    except InstrumentError as error:
        return f"none: {error}"


def _snapshot(station: Station) -> Any:
    """What QCoDeS knows of the station without asking, as plain JSON values."""
    from qcodes.utils import NumpyJSONEncoder

    return json.loads(json.dumps(station.snapshot(update=False), cls=NumpyJSONEncoder))


def simulated_bench(name: str, seed: int, folder: Path) -> AbstractContextManager[Path]:
    """`simulated_station` of a lot, with a rack if its name ends in `RACK`."""
    lot = name.removesuffix(RACK)
    return simulated_station(lot, seed, folder, rack=lot != name)


@contextmanager
def simulated_station(
    lot: str, seed: int, folder: Path, *, rack: bool = False, in_process: bool = False
) -> Iterator[Path]:
    """A simulated station as a process of its own; yields its station file and ends it.

    Its dies keep their states in `folder`, as magnetic junctions do without power. With `rack`, a source measure unit,
    a pulse generator and a switch matrix take the place of the board (docs/rack.md). With `in_process`, threads of this
    process serve the same sockets: for tests, which start many; a run keeps its station out of its own interpreter.
    """
    from sim_backends.bench.physical_log import summary_path
    from sim_backends.station import Station, station_config
    from sim_backends.station_process import spawn_station

    home, file = (folder / "station").resolve(), folder / "station.yaml"
    check_output(file, "--out", is_station)
    config: dict[str, Any] = {"lot": lot, "seed": seed, "state": home / "dies", "log": home / "physical.jsonl"}
    if rack:
        config["rack"] = {}
    if in_process:
        with Station(station_config(config, "configuration", Path.cwd())) as station:
            write_simulated_station(file, station.addresses(), summary_path(config["log"]))
            yield file
        return
    with spawn_station(config) as process:
        write_simulated_station(file, process.addresses, summary_path(config["log"]))
        yield file


def write_simulated_station(path: Path, addresses: dict[str, Any], clock: Path | None) -> None:
    """Write the station file of a simulated station, sealed: a bench's own file is told from it."""
    from instruments.station import write_served_station

    with tempfile.TemporaryDirectory() as home:
        text = write_served_station(Path(home) / "station.yaml", addresses, clock=clock).read_text(encoding="utf-8")
    write_whole(path, sealed(text))
