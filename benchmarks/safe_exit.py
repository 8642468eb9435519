"""Does the station go off, however a run ends? xbarlab, QCoDeS, PyMeasure and Bluesky, fault by fault.

    python benchmarks/safe_exit.py --json safe_exit.jsonl

Every case has a simulated station of its own, in a process that outlives the one that measures. A measurement holds a
die there: needles down, the board's amplifiers driving its lines. Then something happens to it. The station's *physical
log* judges: off means that the lines are at hard ground and the needles are up, within 2 s of the fault (of a run that
hangs: within its lease, 3 s here, and 2 s). The clean-up of the others does what xbarlab does, over the same drivers.

* xbarlab: `xbar run` of the protocol `held` below, an ordinary script.
* QCoDeS: exit action of a `Measurement`. PyMeasure: `Procedure.shutdown` in a `Worker`. Bluesky: `finalize_decorator`.

A Keithley 2450 with QCoDeS's own driver stands in the station, too: its output is switched on in the measurement, and
the stand-in's own log (`SourceMeter`) tells since when it is off.

The disk is full in earnest where the storage is a database (`fill_disk`); PyMeasure's file and Bluesky's callback raise
what a full disk raises. All instruments take one client at a time, as real ones do; that a second one is refused is
tried in every case before the fault. Signals go to the process group, as from a terminal. The board's own watchdog is
what it is at power-on: off, unless the program arms it (xbarlab does).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml

from protocols.sequencer.run import Run, protocol

LEASE, LIMIT = 3.0, 2.0  # s
WATCHDOG = 2.0  # s; `protocols.bench.bench.WATCHDOG`
PATIENCE = 60.0  # s; for a program to come as far as its measurement
ENDS = 10.0  # s; a program that has not ended so long after its fault does not end
XBARLAB = "xbarlab"


@dataclass(frozen=True)
class Fault:
    """What happens to a measurement.

    Attributes
    ----------
    what
        As the table says it.
    signals
        What is sent to the process group of the measurement; without one it is let go on, and does it itself.
    station
        What the simulated station does wrong from the start (`faults` of its configuration): the measurement does not
        come as far as being held then.
    allowed
        Seconds until the station must be off.
    hangs
        The program is still there afterwards; looked at when the time is over, then ended.
    """

    what: str
    signals: tuple[str, ...] = ()
    station: tuple[dict[str, Any], ...] = ()
    allowed: float = LIMIT
    hangs: bool = False

    @property
    def possible(self) -> bool:
        """Whether this system has such a signal; Windows has none that one process sends another."""
        return not self.signals or os.name == "posix"


FAULTS = {
    "none": Fault("normal end"),
    "exception": Fault("exception in the measurement"),
    "interrupt": Fault("Ctrl-C once", ("SIGINT",)),
    "interrupts": Fault("Ctrl-C twice", ("SIGINT", "SIGINT")),
    "terminate": Fault("SIGTERM", ("SIGTERM",)),
    "hangup": Fault("SIGHUP (terminal closed)", ("SIGHUP",)),
    "kill": Fault("SIGKILL", ("SIGKILL",)),
    "stop": Fault("hangs: SIGSTOP", ("SIGSTOP",), allowed=LEASE + LIMIT, hangs=True),
    "busy": Fault("hangs: busy loop", allowed=LEASE + LIMIT, hangs=True),
    "storage": Fault("disk full at commit"),
    "silent": Fault("second instrument silent at start",
                    station=({"kind": "lost_reply", "where": "board", "for": 100_000},)),
    "start": Fault("start fails with needles down",
                   station=({"kind": "lost_reply", "where": "board", "matching": ["READ"], "for": 100_000},)),
    "broker": Fault("SIGKILL of the broker", ("SIGKILL",), allowed=WATCHDOG + LIMIT),
    "both": Fault("SIGKILL of program and broker", ("SIGKILL",), allowed=WATCHDOG + LIMIT),
}  # fmt: skip
BROKER_ONLY = ("broker", "both")


@dataclass(frozen=True)
class Result:
    """How a case ended.

    Attributes
    ----------
    seconds
        From the fault to the moment from which the station was off; None if it never was on, or was not off.
    left
        What was left on when the time was over: lines, needles; empty if nothing.
    exit
        Exit status of the program, negative for a signal; None if it did not end.
    refused
        Whether a second client was refused by all instruments while the measurement was held; None: it never was.
    meter
        Seconds from the fault to the moment from which the output of the 2450 was off; None if it never was on, or
        was not off.
    """

    framework: str
    fault: str
    seconds: float | None
    left: str
    exit: int | None
    refused: bool | None
    meter: float | None = None

    @property
    def said(self) -> str:
        """As the table says it."""
        if self.left:
            text = f"LEFT ON ({self.left})"
        else:
            text = "never on" if self.seconds is None else f"off {self.seconds:.2f} s"
            text += "" if self.meter is None else f", 2450 {self.meter:.2f} s"
        if FAULTS[self.fault].hangs:
            return text
        return f"{text}, {'does not end' if self.exit is None else f'exit {self.exit}'}"


# -- what is measured ------------------------------------------------------------------------------------------------


class Held:
    """The middle of a measurement: it says that it is there, and does what its fault says once it is told to go on."""

    def __init__(self, fault: str, folder: Path) -> None:
        self.fault, self._held, self._go_on = fault, folder / "held", folder / "go_on"

    @property
    def going_on(self) -> bool:
        """Whether it may go on."""
        self._held.touch()
        return self._go_on.exists()

    def wait(self, alive: Callable[[], object] = lambda: None) -> None:
        """Stay until told to go on."""
        while not self.going_on:
            alive()
            time.sleep(0.01)
        self.happen()

    def happen(self) -> None:
        """What the measurement does by itself."""
        if self.fault == "exception":
            raise RuntimeError("the needle card is on fire")
        while self.fault == "busy":
            pass


def look(bench: Any, die: Any) -> xr.Dataset:
    """A step that reads and is held then."""
    current = bench.array.read(0, 0.1)
    bench.report("switches the 2450 on", 0.1)
    switch_on()
    bench.report("is held", 0.2)
    held = Held(os.environ["SAFE_EXIT_FAULT"], Path(os.environ["SAFE_EXIT_FOLDER"]))
    held.wait(alive=lambda: bench.report("held", 0.5))
    if held.fault == "storage":
        fill_disk(bench.array._record._db)  # no protocol can do this: the record is not its business
        current = np.random.default_rng(0).normal(size=(200, *current.shape))
    return xr.Dataset({"i": (("repeat", "row", "column"), np.atleast_3d(current), {"units": "A"})})


def switch_on() -> None:
    """Switch the 2450 on, as a protocol reaches an instrument that fills no role."""
    from qcodes.instrument import Instrument

    meter: Any = Instrument.find_instrument("meter")
    meter.source.voltage(0.5)
    meter.output_enabled(True)
    if not meter.output_enabled():
        raise RuntimeError("the 2450 does not switch on")


@protocol
def held(run: Run) -> None:
    """Look at every die; the first one is where it is held."""
    for die in run.dies():
        run.step(look, die)


def fill_disk(database: Any) -> None:
    """From now on a database behaves as on a full disk."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count={pages}")


class Bare:
    """The same station without xbarlab's run: drivers that hold their connections themselves."""

    def __init__(self, folder: Path) -> None:
        from instruments.station import load_station

        self._station = load_station(folder / "station.yaml")

    def touch(self) -> None:
        """Needles down on the first die of the route."""
        self._station.prober.first_die()
        self._station.prober.contact()

    def drive(self) -> None:
        """Read the die: from then on the board drives its lines."""
        self._station.array.read(0, 0.1)
        switch_on()

    def lift_off(self) -> None:
        """The clean-up: lines to ground, needles up."""
        from instruments.roles import order

        order.leave(self._station.parts())


def run_qcodes(held: Held, folder: Path) -> None:
    """`Measurement` with enter and exit actions."""
    from qcodes.dataset import Measurement, initialise_or_create_database_at, load_or_create_experiment
    from qcodes.parameters import ManualParameter

    bare = Bare(folder)
    initialise_or_create_database_at(folder / "data.db")
    parameter = ManualParameter("i")
    measurement = Measurement(load_or_create_experiment("safe_exit", sample_name="die"))
    measurement.register_parameter(parameter)
    measurement.add_before_run(bare.touch, ())
    measurement.add_before_run(bare.drive, ())
    measurement.add_after_run(bare.lift_off, ())
    with measurement.run() as saver:
        held.wait()
        if held.fault == "storage":
            fill_disk(saver.dataset.conn)
            for number in range(20_000):
                saver.add_result((parameter, number))


def run_pymeasure(held: Held, folder: Path) -> None:
    """`Procedure` in a `Worker`, clean-up in `shutdown`; its procedure polls `should_stop`, as it should."""
    import logging

    from pymeasure.experiment import Procedure, Results, Worker

    bare = Bare(folder)

    class Look(Procedure):
        """Touch, look, lift off."""

        DATA_COLUMNS = ["i"]  # noqa: RUF012 - as PyMeasure wants it

        def startup(self) -> None:
            bare.touch()
            bare.drive()

        def execute(self) -> None:
            while not held.going_on:
                if self.should_stop():
                    return
                time.sleep(0.01)
            held.happen()
            if held.fault == "storage":
                logging.StreamHandler.flush = fail_for_full_disk  # what its recorder calls for every row
                for number in range(10):
                    self.emit("results", {"i": float(number)})

        def shutdown(self) -> None:
            bare.lift_off()

    worker = Worker(Results(Look(), str(folder / "data.csv")))
    worker.start()
    worker.join(timeout=PATIENCE)  # without a time it stops the procedure at once


def run_bluesky(held: Held, folder: Path) -> None:
    """A plan under `finalize_decorator`."""
    from bluesky import RunEngine, preprocessors
    from bluesky import plan_stubs as stubs

    bare, engine = Bare(folder), RunEngine({})

    def off() -> Iterator[Any]:
        bare.lift_off()
        yield from stubs.null()

    @preprocessors.finalize_decorator(off)
    @preprocessors.run_decorator()
    def plan() -> Iterator[Any]:
        bare.touch()
        bare.drive()
        while not held.going_on:
            yield from stubs.checkpoint()
            yield from stubs.sleep(0.01)
        held.happen()

    if held.fault == "storage":
        engine.subscribe(lambda name, document: fail_for_full_disk() if name == "stop" else None)
    engine(plan())


def fail_for_full_disk(*_: object) -> None:
    """What writing to a full disk raises, where the storage is no database."""
    raise OSError(28, "No space left on device")


PEERS = {"QCoDeS": run_qcodes, "PyMeasure": run_pymeasure, "Bluesky": run_bluesky}
PACKAGES = {XBARLAB: "xbarlab", "QCoDeS": "qcodes", "PyMeasure": "pymeasure", "Bluesky": "bluesky"}


# -- how it is judged ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What the logs say: how lines, needles and the 2450 are, since when nothing is on, whether anything ever was."""

    outputs: str = "hard_ground"
    contact: bool = False
    since: float = 0.0
    touched: bool = False
    lifted_live: bool = False
    last_fault: float = 0.0
    meter: bool = False

    @property
    def left(self) -> str:
        """What is on; empty if nothing."""
        lines = [] if self.outputs == "hard_ground" else [f"lines {self.outputs}"]
        live = ["needles were lifted off live lines"] if self.lifted_live else []
        meter = ["2450 on"] if self.meter else []
        return ", ".join([*lines, *(["needles down"] if self.contact else []), *meter, *live])


def seen(log: Path, meter: SourceMeter | None = None) -> Seen:
    """Everything that has happened so far."""
    switched = [] if meter is None else list(meter.switched)
    outputs, contact, since, touched, live, fault = "hard_ground", False, 0.0, False, False, 0.0
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        was_off = outputs == "hard_ground" and not contact
        if entry["what"] == "outputs":
            outputs = entry["mode"]
        elif entry["what"] in ("contact", "separation"):
            contact = entry["what"] == "contact"
            live |= not contact and entry["outputs"] != "hard_ground"
        elif entry["what"] == "move":
            live |= entry["contact_while_moving"]
        elif entry["what"] == "fault":
            fault = entry["wall_s"]
        touched |= contact
        if outputs == "hard_ground" and not contact and not was_off:
            since = entry["wall_s"]
    since = max(since, *(when for when, on in switched if not on), 0.0)
    return Seen(outputs, contact, since, touched, live, fault, bool(switched) and switched[-1][1])


class SourceMeter:
    """A Keithley 2450 as far as QCoDeS's driver asks it; one client at a time, in a thread of this process.

    Attributes
    ----------
    address
        VISA resource.
    switched
        When (s since 1970) its output was switched, and to what.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"TCPIP::127.0.0.1::{self._listener.getsockname()[1]}::SOCKET"
        self.switched: list[tuple[float, bool]] = []
        self._client: socket.socket | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def on(self) -> bool:
        """Whether its output is on."""
        return bool(self.switched) and self.switched[-1][1]

    def close(self) -> None:
        """End it."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._client is not None:
                connection.close()
                continue
            self._client = connection
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        received = b""
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                *lines, received = (received + data).split(b"\n")
                for line in lines:
                    answer = self._answer(line.decode("ascii", "replace").strip().upper().lstrip(":"))
                    if answer is not None:
                        connection.sendall(answer.encode() + b"\n")
        self._client = None

    def _answer(self, line: str) -> str | None:
        if line.startswith("OUTP "):
            on = line.split()[-1] in ("1", "ON")
            if on != self.on:
                self.switched.append((time.time(), on))
            return None
        known = {
            "*IDN?": "KEITHLEY INSTRUMENTS,MODEL 2450,04000001,1.7.0",
            "*LANG?": "SCPI",
            "OUTP?": str(int(self.on)),
            "SOUR:FUNC?": "VOLT",
            "SENS:FUNC?": '"CURR:DC"',
        }
        return known.get(line, "0" if line.endswith("?") else None)


def measure(framework: str, name: str, serve: Callable[[dict[str, Any]], Any] | None = None) -> Result:
    """One case, from the start of a station to its end.

    Parameters
    ----------
    serve
        Serves a station of a configuration; by default a process of its own does.
    """
    from sim_backends.station_process import spawn_station

    fault, serve = FAULTS[name], serve or spawn_station
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        log = folder / "physical.jsonl"
        with (
            serve({"lot": "mtj", "dies": 2, "log": log, "faults": fault.station}) as station,
            contextlib.closing(SourceMeter()) as meter,
        ):
            write_station_file(folder / "station.yaml", station.prober, station.board, meter.address)
            with started(framework, name, folder) as program:
                began, refused, found = 0.0, None, None
                if not fault.station:
                    refused = reach_the_middle(program, folder, (station.prober, station.board, meter.address))
                    began = strike(program, framework, name, folder)
                    found = watch(fault, log, meter, began)
                status = end(program, fault, folder)
            if found is None or not found.left:
                found = seen(log, meter)  # nothing may have come on again
    result = judged(framework, name, found, began or found.last_fault, status, refused)
    if not meter.switched or meter.on:
        return result
    return replace(result, meter=round(max(0.0, meter.switched[-1][0] - began), 3))


def judged(framework: str, name: str, found: Seen, began: float, status: int | None, refused: bool | None) -> Result:
    """The result of a case of which the log says `found`."""
    seconds = found.since - began if found.touched and not found.left else None
    left = found.left
    if seconds is not None and seconds > FAULTS[name].allowed:
        left = f"for {seconds:.1f} s"
    return Result(framework, name, None if seconds is None else round(max(0.0, seconds), 3), left, status, refused)


def write_station_file(path: Path, prober: str, board: str, meter: str) -> None:
    """The station file of a simulated station and a 2450; its board is not waited for as long as usual."""
    entries: dict[str, Any] = {
        "prober": {"type": "instruments.drivers.sentio.Sentio", "address": prober},
        "array": {"type": "instruments.drivers.board.FramedBoard", "address": board, "init": {"timeout": "500 ms"}},
        "meter": {"type": "qcodes.instrument_drivers.Keithley.Keithley2450", "address": meter},
    }
    path.write_text(yaml.safe_dump({"instruments": entries}, sort_keys=False), encoding="utf-8")


@contextmanager
def started(framework: str, name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program that measures, in a process group of its own; gone afterwards."""
    home = str(folder)
    command = [sys.executable, __file__, "--child", framework, name, home]
    if framework == XBARLAB:
        options = ["--station", f"{home}/station.yaml", "--out", f"{home}/lot", "--lease", f"{LEASE:g}s"]
        xbar = [sys.executable, "-P", "-c", "from protocols.cli import main; main()"]
        command = [*xbar, "run", f"{Path(__file__).resolve()}:held", *options]
    place = {"SAFE_EXIT_FAULT": name, "SAFE_EXIT_FOLDER": home, "OMP_NUM_THREADS": "1"}
    with (folder / "said").open("wb") as said:
        program = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=os.environ | place, start_new_session=os.name == "posix"
        )
    try:
        yield program
    finally:
        if program.poll() is None:
            program.kill()
        program.wait()


def reach_the_middle(program: subprocess.Popen[bytes], folder: Path, addresses: tuple[str, ...]) -> bool:
    """Wait until the measurement is held; whether all instruments refuse a second client then."""
    deadline = time.monotonic() + PATIENCE
    while not (folder / "held").exists():
        if program.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it was never held: {(folder / 'said').read_text(encoding='utf-8')}")
        time.sleep(0.01)
    if seen(folder / "physical.jsonl").left != "lines driven, needles down":
        raise RuntimeError("it was held, but the station was not on")
    return all(refuses(address) for address in addresses)


def refuses(address: str) -> bool:
    """Whether an instrument closes a new connection at once."""
    found = re.search(r"(\d+)(::SOCKET)?$", address)
    assert found is not None
    with socket.create_connection(("127.0.0.1", int(found[1])), timeout=2.0) as second:
        return second.recv(1) == b""


def strike(program: subprocess.Popen[bytes], framework: str, name: str, folder: Path) -> float:
    """Let the fault happen; when that was (seconds since 1970)."""
    fault, began = FAULTS[name], time.time()
    if name in BROKER_ONLY:
        os.kill(json.loads((folder / "lot" / "broker.json").read_text(encoding="utf-8"))["pid"], signal.SIGKILL)
    if name != "broker":
        for number in fault.signals:
            os.killpg(program.pid, getattr(signal, number))
            time.sleep(0.3)
    if not fault.signals or (framework == XBARLAB and name == "interrupt"):  # xbarlab finishes the step first
        (folder / "go_on").touch()
    return began


def watch(fault: Fault, log: Path, meter: SourceMeter, began: float) -> Seen | None:
    """Wait until the station is off, or the time is over; what is seen then of a program that is still there."""
    while time.time() < began + fault.allowed and (fault.hangs or seen(log, meter).left):
        time.sleep(0.05)
    return seen(log, meter) if fault.hangs else None


def end(program: subprocess.Popen[bytes], fault: Fault, folder: Path) -> int | None:
    """Exit status of the program; None if it does not end."""
    if fault.hangs and not fault.signals:
        return None
    if fault.hangs:
        os.killpg(program.pid, signal.SIGCONT)
        (folder / "go_on").touch()
    try:
        return program.wait(PATIENCE if fault.station else ENDS)
    except subprocess.TimeoutExpired:
        return None


# -- all of it -------------------------------------------------------------------------------------------------------


def cases(frameworks: list[str], faults: list[str]) -> Iterator[tuple[str, str]]:
    """What is measured, fault by fault."""
    for name in faults:
        for framework in frameworks:
            if FAULTS[name].possible and (framework == XBARLAB or name not in BROKER_ONLY):
                yield framework, name


def table(results: list[Result], frameworks: list[str]) -> Any:
    """One row per fault, one column per framework."""
    from rich.table import Table

    shown = Table("fault", *(f"{name} {version_of(name)}" for name in frameworks), title="station after the fault")
    said = {(each.framework, each.fault): each.said for each in results}
    for name, fault in FAULTS.items():
        row = [said.get((framework, name), "-") for framework in frameworks]
        if set(row) != {"-"}:
            shown.add_row(fault.what, *row)
    return shown


def version_of(framework: str) -> str:
    """Version of a framework."""
    try:
        return version(PACKAGES[framework])
    except PackageNotFoundError:
        return "is not installed"


def main() -> None:
    """Measure all cases, one after another, and print the table."""
    from rich.console import Console

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[XBARLAB, *PEERS], default=[XBARLAB, *PEERS])
    parser.add_argument("--faults", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--json", type=Path, help="file for one line of JSON per case")
    options = parser.parse_args()
    results = []
    for case in cases(options.only, options.faults):
        results.append(measure(*case))
        line = json.dumps({**asdict(results[-1]), "version": version_of(case[0])})
        print(line, flush=True)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    console = Console(width=160)
    console.print(table(results, options.only))
    refused = [each.refused for each in results if each.refused is not None]
    console.print(f"a second client was refused by all instruments in {sum(refused)} of {len(refused)} cases")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        PEERS[sys.argv[2]](Held(sys.argv[3], Path(sys.argv[4])), Path(sys.argv[4]))
    else:
        main()
