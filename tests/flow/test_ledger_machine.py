"""Any sequence of firing, refusals, crashes, lost and damaged replies, reconnections and restarts of the board leaves
a dose that is at least what the cells got.

The real driver at the simulated board, over a socket of this process; judged by what the board says that it did to the
die (its physical log). Half of the examples have a board that draws a number at each power-on, half an older one.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from qcodes.instrument import Instrument

from analysis.record.record import Pulse, Record
from instruments.drivers.board import FramedBoard
from instruments.roles.interfaces import InstrumentError, LimitError
from protocols.bench import ledgered_tester
from protocols.bench.ledgered_tester import LedgeredTester
from sim_backends.array.dies.lot import BUILT_IN
from sim_backends.station import Station, station_config
from sim_backends.wire.faults import Fault, FaultPlan
from sim_backends.wire.faulty_wire import FaultyWire

SIDE, DIE, SHAPE = 25, "c0r0", (1, 25, 25)
#: Faults of a pulse: (kind, before it is carried out).
FAULTS = [("lost_reply", None), ("lost_request", None), ("garbled_reply", None), ("duplicated_reply", None),
          ("disconnect", None), ("disconnect", True), ("restart", None), ("restart", True), ("busy", None)]  # fmt: skip
#: Where a program may die while it fires.
DEATHS = ["before intent", "after intent", "frame sent", "frame answered", "before fired", "after fired"]


#: Names of drivers, each once.
NUMBERS = itertools.count()


class Death(BaseException):
    """The program is gone: nothing catches this."""


class Script(FaultPlan):
    """Strikes the next pulse frames with what is on its list."""

    def __init__(self, log) -> None:
        super().__init__("board", (), log)
        self.next: list[tuple[str, bool | None] | None] = []
        self._now: list[Fault] = []

    def arrives(self, request):
        self._now = []
        if request in ("PULSE", "PULSE_READ") and self.next and (struck := self.next.pop(0)) is not None:
            self._now = [Fault(kind=struck[0], where="board", before=struck[1])]
        return [fault for fault in self._now if fault.kind != "restart"]

    def striking(self, kind):
        return [fault for fault in self._now if fault.kind == kind]


class Simulated:
    """One board with a small die under its needles, and every pulse that the die got."""

    def __init__(self, home: Path) -> None:
        lot = yaml.safe_load((BUILT_IN / "mtj.yaml").read_text(encoding="utf-8"))
        lot["geometry"] |= {"blocks": 1, "block_rows": SIDE, "block_columns": SIDE}
        lot["wafer"]["dies"] = 1
        (home / "small.yaml").write_text(yaml.safe_dump(lot), encoding="utf-8")
        self.station = Station(station_config({"lot": str(home / "small.yaml"), "seed": 1}, "test", home))
        (served,) = (each for each in self.station._instruments if each.name == "board")
        self.board = served.service
        self.script = self.board._faults = Script(self.station.log)
        self.station._servers["board"]._wire = FaultyWire(self.board, self.script)
        self.got = np.zeros(SHAPE, int)
        fire = self.board._fire

        def noted(kernel, code, width, count, mask, scheme):
            fire(kernel, code, width, count, mask, scheme)
            self.got[kernel] += count * mask

        self.board._fire = noted
        self.station.start()
        self.station.bench.move_to(0)
        self.station.bench.touch()

    @property
    def address(self) -> str:
        host, port = self.station._servers["board"].address
        return f"socket://{host}:{port}"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """The board, served once for all examples."""
    found = Simulated(tmp_path_factory.mktemp("small"))
    Ledger.simulated = found
    yield found
    found.station.close()


class Ledger(RuleBasedStateMachine):
    """A program that fires through the ledger, dies and comes back; and a board that restarts."""

    simulated: Simulated

    @initialize(old=st.booleans(), on_open=st.booleans())
    def begin(self, old, on_open):
        self.old, self.folder = old, Path(tempfile.mkdtemp())
        board = self.simulated.board
        board._spec = board._spec.model_copy(update={"restarts_on_open": on_open})
        self.simulated.script.next.clear()
        self.start, self.restarts, self.real = self.simulated.got.copy(), 0, {}
        board.restart()
        self.record = self.driver = None
        self.come_back()

    def come_back(self):
        """A new program: driver and record are opened anew, as after any death."""
        if self.driver is not None:
            self.driver.close()
            self.driver = None
        if self.record is not None:
            self.record.close()
        self.record = Record.open(self.folder)
        self.run = self.record.begin_run("test", {})
        self.driver = self._connected()
        if self.old:
            self.driver._link.says_power_on = False
        self.array = LedgeredTester(self.driver, self.record, self.run, lambda: None, 10**6)
        self.array.die = DIE

    def _connected(self):
        """A driver; short time-outs make lost replies cheap, and a busy machine miss some that are not lost."""
        for _ in range(20):
            try:
                return FramedBoard(f"ledger_machine_{next(NUMBERS)}", self.simulated.address, timeout=0.1)
            except InstrumentError:
                continue
        raise AssertionError("nobody could connect")

    @rule(
        cells=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=4),
        faults=st.lists(st.none() | st.sampled_from(FAULTS), max_size=4),
        death=st.none() | st.tuples(st.sampled_from(DEATHS), st.integers(1, 4)),
    )
    def fire(self, cells, faults, death):
        pulses = []
        for cell, count in cells:
            mask = np.zeros((SIDE, SIDE), bool)
            mask[cell, cell] = True
            pulses.append(Pulse(0, mask, 0.3, 1e-7, count))
        self.simulated.script.next[:] = faults
        with pytest.MonkeyPatch.context() as patch:
            if death is not None:
                self._die_at(patch, *death)
            try:
                self.array.fire(pulses)
            except InstrumentError:
                pass
            except Death:
                patch.undo()
                self.come_back()
        self.simulated.script.next.clear()

    def _die_at(self, patch, where, nth):
        """Have the program die at a place, the n-th time that it comes there."""
        passed = [0]

        def dying(here, whole, after):
            def action(*given, **how):
                passed[0] += 1
                result = whole(*given, **how) if after or passed[0] < nth else None
                if passed[0] >= nth:
                    raise Death(here)
                return result

            return action

        link, record = self.driver._link, self.record
        owner, name = {"intent": (record, "intend"), "fired": (record, "fired")}.get(
            where.split()[-1], (link, "_exchange")
        )
        if owner is record:
            patch.setattr(record, name, dying(where, getattr(record, name), where.startswith("after")))
            passed[0] = nth - 1
        elif where == "frame sent":
            send = link.port._transport.send
            patch.setattr(link.port._transport, "send", dying(where, send, True))
        else:
            patch.setattr(link, "_exchange", dying(where, link._exchange, True))

    @rule(wrong=st.sampled_from([{"count": -4}, {"count": 0}, {"amplitude": 5.0}, {"width": 1.0}, {"kernel": 3}]))
    def refuse(self, wrong):
        before = self.record.dose(DIE, SHAPE)
        mask = np.ones((SIDE, SIDE), bool)
        good = Pulse(0, mask, 0.3, 1e-7)
        bad = Pulse(**({"kernel": 0, "mask": mask, "amplitude": 0.3, "width": 1e-7} | wrong))
        with pytest.raises(LimitError):
            self.array.fire([good, bad])
        assert np.array_equal(self.record.dose(DIE, SHAPE), before)

    @rule()
    def crash(self):
        self.come_back()

    @rule()
    def reconnect(self):
        with contextlib.suppress(InstrumentError):
            self.driver._link.port.reopen()

    @rule()
    def restart(self):
        self.simulated.board.restart()

    @rule()
    def settle(self):
        for batch in self.record.unfired(DIE):
            self.array.settle(batch)
        assert not self.record.unfired(DIE)

    @invariant()
    def dose_is_at_least_what_the_cells_got(self):
        got = self.simulated.got - self.start
        dose = self.record.dose(DIE, SHAPE)
        assert (dose >= got).all(), f"a cell got {(got - dose).max()} pulses more than the ledger says"

    def teardown(self):
        if self.driver is not None:
            self.driver.close()
        if self.record is not None:
            self.record.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def run_machine(monkeypatch, examples: int, steps: int) -> None:
    """Try so many sequences of at most so many steps."""
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(ledgered_tester, "NOT_FIRED_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr("instruments.board_protocol.link.PAUSE", 0.001)
    how = settings(max_examples=examples, stateful_step_count=steps, deadline=None,
                   suppress_health_check=list(HealthCheck))  # fmt: skip
    run_state_machine_as_test(Ledger, settings=how)


def test_dose_is_at_least_what_the_cells_got(simulated, monkeypatch):
    run_machine(monkeypatch, 6, 12)


@pytest.mark.slow
def test_dose_is_at_least_what_the_cells_got_in_many_sequences(simulated, monkeypatch):
    run_machine(monkeypatch, 10, 20)


def test_what_the_machine_looks_at_would_find_a_pulse_behind_the_records_back(simulated):
    """A check that cannot fail proves nothing."""
    machine = Ledger()
    machine.begin(old=False, on_open=False)
    try:
        machine.fire([(0, 1)], [], None)
        machine.dose_is_at_least_what_the_cells_got()
        mask = np.zeros((SIDE, SIDE), bool)
        mask[0, 0] = True
        machine.driver.pulse(0, mask, 0.3, 1e-7)
        with pytest.raises(AssertionError, match="1 pulses more"):
            machine.dose_is_at_least_what_the_cells_got()
    finally:
        machine.teardown()
        Instrument.close_all()
