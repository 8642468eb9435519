"""No line kills, stops or fills a simulated instrument, and none of them answers what is not so."""

import socket
import threading
import time

import pytest
from virtual_rack import VirtualRack

from sim_backends.array.dies.kinds import load_any_lot
from sim_backends.bench.bench import Bench
from sim_backends.bench.clock import StationClock, Timing
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.virtual.kepco import Kepco, KepcoSpec
from sim_backends.virtual.prober import Prober, ProberSpec
from sim_backends.virtual.sentio import Sentio
from sim_backends.wire.tcp import InstrumentServer

DEEP = 1500
TSP_ODD = [
    "print(" + "(" * DEEP + "1" + ")" * DEEP + ")",
    "print(" + "-" * DEEP + "1)",
    "print(" + "print(" * 600 + ")" * 601,
    "x=" + "1+" * 2000 + "1",
    "x=0x" + "f" * 4000,
    "x=1e400 print(x, -x, x-x, x*0, 1/0, 0/0)",
    "print(0x" + "f" * 4000 + ")",
    "x=" + "9" * 4000,
    "smua.source.levelv=1e400",
    "smua.source.levelv=0/0",
    "smua.measure.count=1e300",
    "format.asciiprecision=0/0",
    "display.settext(nil)",
    "channel.close(5)",
    "channel.getstate('" + "allslots," * 400 + "')",
    "print(slot[" + "9" * 4000 + "].idn)",
    "delay(1e300)",
    "tonumber({})",
    "print(tonumber('1_0'), tonumber(true), tonumber('infinity'))",
    "'" + "x" * 5000,
    "x" * 100_000,
    "print('" + "a" * 4000 + "') " * 3,
    "loadscript " + "x" * 4000 + "\nendscript",
    "\x00\xff\x80",
]
SCPI_ODD = [
    "SOUR1:VOLT 1E400",
    "SOUR1:VOLT " + "9" * 4000,
    "SOUR1:VOLT " + "9" * 4000 + "x",
    "SOUR1:BURS:NCYC 1E8;:SOUR1:FUNC PULS;:TRIG1:SOUR BUS;:SOUR1:BURS:STAT 1;:OUTP1 1;*TRG",
    "SOUR1:BURS:NCYC INF;*TRG;*OPC?",
    "SOUR1:FUNC:PULS:PER 1E-300",
    ":" * 4000,
    ";" * 4000,
    "OUTP1 " + "," * 4000,
    "DISP:TEXT '" + "a" * 3000 + "'",
    "*ESE 1e9;*SRE nan;*STB?",
    "x" * 100_000,
]
SENTIO_ODD = [
    "start_wait_all 1\nwait_all 1\nwait_complete 1\nquery_command_status 1",
    "start_start_wait_all 1",
    "map:bins:set_all 1\nmap:path:create_from_bins 0-99999999999999",
    "map:path:create_from_bins " + "0-255," * 600 + "1",
    "map:step_die " + "9" * 4000 + ",1,0",
    "map:step_die 1e300,1,0",
    "map:step_die 99999999999999,-99999999999999,0",
    "move_chuck_xy h,1e308,1e308",
    "move_chuck_xy r,nan,inf",
    "move_chuck_z z,1e308",
    "set_chuck_site_heights Wafer,1e308,1e307,0,1",
    "set_chuck_separation_gap 1e308\nget_chuck_z Separation",
    "status:set_chuck_temp 1e400",
    "map:bins:set_bin_info 1," + "x" * 3000 + ",Pass,#FF",
    "map:set_routing ,",
    "map:bins:set_bin ١,1,1",
    "x" * 100_000,
    ",,,,",
    "start_",
]


@pytest.fixture
def rack(tmp_path):
    rack = VirtualRack(tmp_path)
    rack.connect("1C01,2D01", "H")
    return rack


@pytest.fixture
def sentio():
    clock = StationClock()
    bench = Bench(load_any_lot("mtj"), 3, clock, PhysicalLog(None, clock))
    return Sentio(Prober(bench, ProberSpec(), Timing(), [0, 1, 2]))


@pytest.mark.parametrize("line", TSP_ODD, ids=range(len(TSP_ODD)))
def test_odd_lines_of_tsp(rack, line, caplog):
    for name in ("smu", "matrix"):
        rack.instruments[name].receive(line.encode("latin-1", "replace") + b"\n")
        assert rack.send(name, "print(2)") == "2.00000e+00"
    assert "not foreseen" not in caplog.text


@pytest.mark.parametrize("line", SCPI_ODD, ids=range(len(SCPI_ODD)))
def test_odd_lines_of_scpi(rack, line, caplog):
    kepco = Kepco(PhysicalLog(None, StationClock()), KepcoSpec())
    began = time.process_time()
    for service in (rack.instruments["pulser"], kepco):
        service.receive(line.encode() + b"\n")
        assert service.receive(b"*CLS;*RST;*OPC?\n") == b"1\n"
    assert time.process_time() - began < 10
    assert "not foreseen" not in caplog.text


@pytest.mark.parametrize("line", SENTIO_ODD, ids=range(len(SENTIO_ODD)))
def test_odd_lines_of_sentio(sentio, line, caplog):
    answered = sentio.receive(line.encode() + b"\n")
    assert answered.count(b"\n") == line.count("\n") + 1
    assert sentio.receive(b"status:get_machine_status\n") == b"0,0,Ready\n"
    assert "not foreseen" not in caplog.text


def test_jobs_and_variables_do_not_fill_the_memory(sentio, rack):
    sentio.receive(b"map:bins:start_clear_all\n" * 3000)
    assert len(sentio._jobs) <= 1000
    sentio.receive(b"wait_all\n" + b"map:bins:start_clear_all\n" * 10)
    assert sentio.receive(b"map:bins:start_clear_all\n").endswith(b",OK\n")
    rack.instruments["smu"].receive(b"".join(f"v{at}='{'x' * 50}'\n".encode() for at in range(3000)))
    assert rack.smu("print(v999, v1000)") == "x" * 50 + "\tnil"
    rack.smu("t='" + "y" * 4000 + "'")
    assert len(rack.instruments["smu"].receive(b"print(t)\n" * 5000)) < 2 << 20
    assert rack.smu("print(1)") == "1.00000e+00"


def test_what_a_handler_did_not_foresee_is_an_error_of_the_instrument(rack, sentio, monkeypatch, caplog):
    def fail(*arguments, **named):
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(rack.wiring, "measure", fail)
    monkeypatch.setattr(rack.wiring, "put_out", fail)
    assert rack.smu("print(smua.measure.i())") == ""
    assert rack.smu("print(errorqueue.next())").startswith("-2.86000e+02\t")
    assert rack.pulser("OUTP1 ON") == "" and rack.pulser("SYST:ERR?").startswith("-300")
    monkeypatch.setattr(sentio._prober, "separate", fail)
    assert sentio.receive(b"move_chuck_separation\n") == b"1,0,Internal error\n"
    assert caplog.text.count("ZeroDivisionError: on purpose") == 3
    assert rack.bench.lock.acquire(blocking=False)


# -- bursts ------------------------------------------------------------------------------------------------------------


def _burst(rack, cycles, widths=("1E-4", "2E-4")):
    for at, width in enumerate(widths, 1):
        rack.pulser(
            f":SOUR{at}:FUNC PULS;:SOUR{at}:FUNC:PULS:WIDT {width};:SOUR{at}:BURS:NCYC {cycles};:TRIG{at}:SOUR BUS;"
            f":OUTP{at}:LOAD INF;:SOUR{at}:VOLT:LOW 0;:SOUR{at}:VOLT:HIGH 0.5;:SOUR{at}:BURS:STAT 1;:OUTP{at} 1"
        )


def test_a_long_burst_is_counted_whole(rack):
    _burst(rack, "1E6")
    rack.pulser("*TRG")
    pulses = rack.entries("pulse")
    assert len(pulses) < 250
    assert sum(each["count"] for each in pulses if len(set(each["volts"].values())) == 1) == 1_000_000
    assert rack.clock.now > 999


def test_an_endless_burst_goes_on_until_it_is_ended(rack):
    _burst(rack, "INF")
    rest = rack.wiring.operate().across.max()
    rack.pulser("*TRG")
    running = abs(rack.wiring.operate().across).max()
    assert rest < 0.01 and running > 0.2, "followed as the largest voltage that it reaches"
    assert rack.pulser("*OPC?") == "" and rack.pulser("SYST:ERR?").startswith("-221")
    rack.pulser("OUTP1 OFF;:OUTP1 ON")
    assert abs(rack.wiring.operate().across).max() > 0.2, "the relay of the output does not end it"
    rack.pulser("ABOR")
    assert abs(rack.wiring.operate().across).max() < 0.01 and rack.pulser("*OPC?") == "1"
    for end in (":SOUR1:BURS:STAT 0;:SOUR1:BURS:STAT 1", ":SOUR1:BURS:NCYC 1", ":TRIG1:SOUR BUS", "*RST"):
        rack.pulser("*RST")
        _burst(rack, "INF", ("1E-4",))
        rack.pulser("*TRG")
        assert rack.pulser("*OPC?") == "", end
        rack.pulser(f"*CLS;{end}")
        assert rack.pulser("*OPC?") == "1", end


# -- answers -----------------------------------------------------------------------------------------------------------


def test_settings_read_back_as_they_were_made(rack):
    assert rack.pulser("OUTP:SYNC ON;:OUTP:SYNC:SOUR CH2;:OUTP:SYNC?;:OUTP:SYNC:SOUR?") == "1;CH2"
    assert rack.pulser("*RST;:OUTP:SYNC?;:OUTP:SYNC:SOUR?") == "0;CH1"
    assert rack.pulser("""DISP:TEXT 'say "hi"';:DISP:TEXT?""") == '"say ""hi"""'
    assert rack.smu("display.settext('hello') print(display.gettext())") == "hello"
    assert rack.smu("display.screen=display.SMUA print(display.screen)") == "0.00000e+00"
    assert rack.matrix("display.settext('hello') print(display.gettext())") == "hello"


def test_events_are_those_that_happened(rack):
    for name in ("smu", "matrix"):
        assert rack.send(name, "*ESR?") == "128", "power-on"
        assert rack.send(name, "*ESR?") == "0"
        rack.send(name, "foo(")
        assert rack.send(name, "*ESR?") == "16"
        rack.send(name, "*OPC")
        assert rack.send(name, "print(status.standard.event)") == "1.00000e+00"
        rack.send(name, "*ESE 16")
        rack.send(name, "*SRE 32")
        rack.send(name, "foo(")
        assert (rack.send(name, "*ESE?"), rack.send(name, "*STB?")) == ("16", str(4 + 32 + 64))
        rack.send(name, "*CLS")
        assert rack.send(name, "*STB?") == "0"
    assert rack.pulser("*ESR?;BOGUS") == "128"
    assert rack.pulser("*ESR?;*ESE 32;*ESE?;*STB?") == "32;32;4"


def test_the_range_of_a_measurement_is_the_one_it_was_made_on(rack):
    rack.connect("1A01,2B01", "H")
    rack.smu("smua.source.levelv=0.5 smua.source.output=1 smub.source.output=1 x=smua.measure.v() y=smua.measure.i()")
    assert rack.smu("print(smua.measure.rangev, smua.source.rangev)") == "1.00000e+00\t1.00000e+00"
    current, full = map(float, rack.smu("print(y, smua.measure.rangei)").split("\t"))
    assert abs(current) <= full <= 20 * abs(current)
    rack.smu("smua.measure.rangei=1e-3 y=smua.measure.i()")
    assert rack.smu("print(smua.measure.rangei, smua.measure.autorangei)") == "1.00000e-03\t0.00000e+00"


# -- the server --------------------------------------------------------------------------------------------------------


class Awkward:
    """A service that fails, or answers more than anybody reads."""

    def __init__(self):
        self.came, self.bites = 0, 0
        self._due = None

    def connected(self):
        self.came += 1

    def receive(self, data):
        if b"fail" in data:
            raise RecursionError("on purpose")
        if b"arm" in data:
            self._due = time.monotonic() + 0.1
        return b"y" * 4_000_000 if b"flood" in data else b"ok\n"

    def deadline(self):
        return self._due

    def expired(self):
        self._due, self.bites = None, self.bites + 1


@pytest.fixture
def awkward():
    service = Awkward()
    server = InstrumentServer(service, "127.0.0.1", 0, "awkward")
    server.start()
    yield service, server.address
    server.stop()


def _ask(address, data=b"x"):
    with socket.create_connection(address, 5) as client:
        client.settimeout(5)
        client.sendall(data)
        return client.recv(100)


def test_a_server_outlives_what_goes_wrong(awkward, caplog):
    _, address = awkward
    for _ in range(3):
        assert _ask(address, b"fail") == b"", "this client is dropped"
        assert _ask(address) == b"ok\n", "the next one is served"
    assert caplog.text.count("RecursionError: on purpose") == 3


def test_a_deadline_that_is_far_away_is_waited_for(awkward):
    service, address = awkward
    service._due = time.monotonic() + 2**32
    assert [_ask(address) for _ in range(3)] == [b"ok\n"] * 3


def test_a_client_that_does_not_read_holds_up_nobody(awkward):
    service, address = awkward
    deaf = socket.create_connection(address, 5)
    deaf.sendall(b"arm")
    assert deaf.recv(10) == b"ok\n"
    for _ in range(20):
        deaf.sendall(b"flood")
        time.sleep(0.02)
    for _ in range(100):
        if service.bites:
            break
        time.sleep(0.05)
    assert service.bites == 1, "the watchdog bites although the answer cannot be sent"
    received = 0
    deaf.settimeout(5)
    while received < 4_000_000:
        received += len(deaf.recv(1 << 20))
    deaf.close()
    assert _ask(address) in (b"ok\n", b""), "a client that leaves with much unread makes room"
    for _ in range(100):
        if _ask(address) == b"ok\n":
            return
        time.sleep(0.05)
    raise AssertionError("nobody is served")


def test_a_client_that_dies_in_a_script_takes_it_along(rack):
    with rack.served() as addresses:
        _, host, port, _ = addresses["smu"].split("::")
        address = (host, int(port))
        with socket.create_connection(address, 5) as client:
            client.sendall(b"smua.source.output=1\nloadscript x\n")
        for _ in range(100):
            try:
                assert _ask(address, b"smua.source.output=0 print(smua.source.output)\n") == b"0.00000e+00\n"
            except (AssertionError, ConnectionError):
                time.sleep(0.05)
            else:
                return
    raise AssertionError("the off line of the next client is not carried out")


def test_lines_of_one_instrument_do_not_hold_the_station(rack):
    slow = threading.Thread(target=rack.instruments["smu"].receive, args=(b"x=smua.measure.i()\n" * 3000,))
    before = rack.clock.now
    slow.start()
    while rack.clock.now == before:  # until it is in the middle of its lines
        time.sleep(1e-3)
    came_in_between = rack.bench.lock.acquire(timeout=60) and slow.is_alive()
    rack.bench.lock.release()
    slow.join()
    assert came_in_between
