"""Instruments that are not ours in a station: through our sessions, switched off in their turn, or refused."""

import foreign_drivers
import pytest
import pyvisa
import yaml
from qcodes.instrument import Instrument
from source_meter import ScriptedSourceMeter

from instruments.broker.client import Broker, ReplayError
from instruments.foreign import driver_packages, off_rules
from instruments.foreign.driver_packages import DriverError
from instruments.foreign.off_rules import OffRule, off_rule
from instruments.foreign.own_connections import OwnConnectionError
from instruments.roles.interfaces import InstrumentError, LinkError
from instruments.roles.off_recipe import Stage
from instruments.station import StationFileError, check_station, instruments_not_ours, load_station, write_station
from instruments.wire.traffic import Kind, read_traffic

QCODES = "qcodes.instrument_drivers.Keithley.Keithley2450"
PYMEASURE = "pymeasure.instruments.keithley.Keithley2450"
OFF = {"send": [":OUTP OFF"], "ask": ":OUTP?", "expect": "0"}


@pytest.fixture
def meter():
    peer = ScriptedSourceMeter()
    yield peer
    peer.stop()


@pytest.fixture(autouse=True)
def allowed(monkeypatch, tmp_path):
    """The drivers of `foreign_drivers.py`, and nothing that the user of this machine allows."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(driver_packages, "_added", {"foreign_drivers"})


@pytest.fixture
def file(tmp_path, peer_sentio, peer_board):
    return write_station(tmp_path / "lab.yaml", peer_sentio.address, peer_board.address)


def add(file, type, address=None, off=None, **init):
    """The station file with an instrument called meter."""
    content = yaml.safe_load(file.read_text())
    entry = {"type": type} | ({} if address is None else {"address": address})
    if off is not None:
        init = {**init, "metadata": {**init.get("metadata", {}), "switch_off": off}}
    content["instruments"]["meter"] = entry | ({"init": init} if init else {})
    file.write_text(yaml.safe_dump(content))
    return file


# -- held ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visalib", [None, "@py"])
def test_a_driver_of_qcodes_speaks_through_our_session(file, meter, visalib):
    add(file, QCODES, meter.address, **({"visalib": visalib} if visalib else {}))
    with load_station(file) as station:
        found = Instrument.find_instrument("meter")
        assert found is station.components["meter"] and type(found).__name__ == "Keithley2450"
        assert not any("OUTP" in line for line in meter.lines)  # connecting switches nothing
        found.output_enabled(True)
        assert found.output_enabled() is True and meter.on  # asked first: what was written before has arrived then
        assert str(meter.port) in station.snapshot(update=False)["instruments"]["meter"]["address"]
        station.prober.contact()
    assert not meter.on and meter.lines[-2:] == [":OUTP OFF", ":OUTP?"]
    assert not Instrument.exist("meter") and meter.clients == 1


def test_a_driver_of_pymeasure_does_too(file, meter):
    add(file, PYMEASURE, meter.address)
    with load_station(file):
        found = Instrument.find_instrument("meter")
        found.enable_source()
        found.source_voltage = 0.5
        assert found.source_enabled and meter.on  # asked first: what was written before has arrived then
        assert ":SOUR:VOLT:LEV 0.5" in meter.lines
        assert found.snapshot(update=False)["name"] == "meter"
    assert not meter.on


@pytest.mark.parametrize("persistent", [True, False])
def test_a_driver_with_a_socket_of_its_own_does_too(file, meter, persistent):
    add(file, "foreign_drivers.Socketed", "127.0.0.1", OFF, port=meter.port, persistent=persistent)
    with load_station(file):
        found = Instrument.find_instrument("meter")
        found.write("OUTP ON")
        assert found.ask("*IDN?").strip().startswith("KEITHLEY") and meter.on
    assert not meter.on and meter.clients == 1


def test_a_driver_that_asks_pyvisa_itself_gets_our_session(file, meter, monkeypatch):
    monkeypatch.setattr(meter, "_attend", lambda connection, attend=meter._attend: attend(connection))
    add(file, "foreign_drivers.Plain", meter.address, OFF)
    with load_station(file):
        found = Instrument.find_instrument("meter")
        assert found.visa_handle.query_ascii_values("X?") == [1.0]
        assert isinstance(found.visa_handle, pyvisa.resources.MessageBasedResource)
        found.visa_handle.timeout = 200
        meter.silent.add("Y?")
        with pytest.raises(pyvisa.VisaIOError, match="meter at TCPIP") as error:
            found.ask("Y?")
        assert error.value.error_code == pyvisa.constants.StatusCode.error_timeout
        assert isinstance(error.value, LinkError)
        assert found.ask("X?") == "1"  # over a new connection: a late answer is not taken for this one
        assert meter.clients == 2
        with pytest.raises(LinkError, match="carries messages and no more"):
            found.visa_handle.assert_trigger()


def test_what_the_file_says_of_parameters_holds(file, meter):
    add(file, QCODES, meter.address)
    content = yaml.safe_load(file.read_text())
    content["instruments"]["meter"]["parameters"] = {"output_enabled": {"alias": "lit"}}
    file.write_text(yaml.safe_dump(content))
    with load_station(file) as station:
        assert station.components["meter"].lit() is False


@pytest.mark.parametrize("how", ["leave", "safe"])
def test_it_is_off_before_the_needles_lift(file, meter, peer_sentio, how):
    add(file, QCODES, meter.address)
    station = load_station(file)
    station.prober.contact()
    station.components["meter"].output_enabled(True)
    seen, separate = [], type(station.prober).separate
    station.prober.separate = lambda: (seen.append(meter.on), separate(station.prober))
    if how == "safe":
        station.safe()
    station.close()
    assert seen[0] is False and peer_sentio.z == 15700.0


def test_one_that_stays_on_is_named_and_keeps_nothing_else_from_being_done(file, meter, peer_sentio):
    add(file, QCODES, meter.address)
    station = load_station(file)
    station.prober.contact()
    station.components["meter"].output_enabled(True)
    assert station.components["meter"].output_enabled()
    meter.stuck = True
    with pytest.raises(InstrumentError, match="meter is not known to be off"):
        station.close()
    assert peer_sentio.z == 15700.0


def test_the_broker_switches_it_off_when_the_program_is_gone(file, meter):
    add(file, QCODES, meter.address)
    broker = Broker(file, traffic=file.with_name("run.traffic"))
    station = load_station(file, broker)
    station.components["meter"].output_enabled(True)
    broker.close(failed=True)
    assert not meter.on and meter.clients == 1
    said = [entry.payload for entry in read_traffic(file.with_name("run.traffic")) if entry.kind is Kind.OWN]
    assert b":OUTP OFF\n" in said
    station.forget()


def test_a_replay_answers_from_the_recording_and_connects_to_nothing(file, meter, peer_board, peer_sentio):
    add(file, QCODES, meter.address)
    recording = file.with_name("run.traffic")

    def use(station):
        station.components["meter"].output_enabled(True)
        return station.components["meter"].output_enabled()

    with Broker(file, traffic=recording) as broker, load_station(file, broker) as station:
        used = use(station)
    before = meter.clients, peer_board.clients, peer_sentio.clients, len(meter.lines)
    with Broker(file, recording=recording) as broker:
        station = load_station(file, broker)
        assert use(station) == used
        with pytest.raises(ReplayError, match="meter"):
            station.components["meter"].ask("*IDN?")
        station.forget()
    assert (meter.clients, peer_board.clients, peer_sentio.clients, len(meter.lines)) == before


def test_a_driver_with_a_wire_of_ours_makes_itself_safe(file):
    add(file, "foreign_drivers.OwnWire", "TCPIP::127.0.0.1::1::SOCKET")
    load_station(file).close()
    assert foreign_drivers.OwnWire.made_safe == 1


# -- faults name it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type", [QCODES, PYMEASURE, "foreign_drivers.Plain"])
def test_one_that_is_not_there_is_named_with_its_file(file, type, peer_board):
    add(file, type, "TCPIP::127.0.0.1::9::SOCKET", OFF)
    with pytest.raises(LinkError) as error:
        load_station(file)
    for each in (str(file), "instruments.meter", "127.0.0.1::9"):
        assert each in str(error.value)
    assert not Instrument.exist("array")


@pytest.mark.parametrize(
    "how, says",
    [("socket", "connection to"), ("library", "library libm"), ("device", "/dev/ttyS0"), ("exit", "SystemExit"),
     ("error", "Connection refused")],
)  # fmt: skip
def test_what_a_driver_does_beside_its_session_is_refused_and_named(file, meter, how, says):
    add(file, "foreign_drivers.Smuggler", meter.address, OFF, how=how)
    with pytest.raises(InstrumentError, match=rf"instruments\.meter: .*{says}"):
        load_station(file)


def test_nor_later(file, meter):
    add(file, "foreign_drivers.Smuggler", meter.address, OFF, how="later")
    with load_station(file) as station, pytest.raises(OwnConnectionError, match="cannot be held by the broker"):
        station.components["meter"].open_later()
    assert pyvisa.ResourceManager("@py")  # who is no driver gets what he asks for


def test_a_driver_opens_the_address_of_the_file_only(file, meter):
    add(file, "foreign_drivers.Elsewhere", meter.address, OFF)
    with pytest.raises(LinkError, match=rf"it may open {meter.address} only"):
        load_station(file)


# -- refused before anything is connected --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type, init, says",
    [
        ("foreign_drivers.Plain", {}, ["switch_off", "send", "none"]),
        ("qcodes.instrument_drivers.stanford_research.SR830", {}, ["how a SR830 is switched off"]),
        ("foreign_drivers.NoWire", {}, ["cannot be held by the broker"]),
        ("qcodes.instrument_drivers.AlazarTech.ATS.AlazarTechATS", {}, ["cannot be held by the broker"]),
        ("qcodes.instrument_drivers.AlazarTech.ATS.AlazarTechATS", {"dll_path": "./e.so"}, ["dll_path"]),
        (QCODES, {"visalib": "./evil.so@ivi"}, ["visalib", "@py"]),
        (QCODES, {"visalib": "@sim"}, ["visalib", "@py"]),
        (QCODES, {"pyvisa_sim_file": "x.yaml"}, ["pyvisa_sim_file"]),
        (QCODES, {"resource": "x"}, ["resource"]),
        (QCODES, {"metadata": {"note": "./e.so", "switch_off": {"send": []}}}, ["switch_off.send"]),
        (PYMEASURE, {"adapter": "x"}, ["adapter"]),
        (PYMEASURE, {"visa_library": "/tmp/e.so"}, ["visa_library"]),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused_with_what_to_write(file, meter, type, init, says):
    add(file, type, meter.address, **init)
    with pytest.raises(StationFileError) as error:
        check_station(file)
    for each in (str(file), "instruments.meter", *says):
        assert each in str(error.value)
    assert meter.clients == 0


@pytest.mark.parametrize(
    "said, says",
    [
        ({"send": "x", "ask": "y", "expect": "0"}, "send"),
        ({"send": ["x\ny"], "ask": "y?", "expect": "0"}, "printable"),
        ({"send": ["x"], "ask": "y?", "expect": "("}, "regular expression"),
        ({"send": ["x"], "ask": "y?", "expect": False}, "quotes"),
        ({"send": ["x"], "ask": "y?"}, "expect"),
        ({"send": ["x"], "ask": "y?", "expect": "0", "limit": "1 V"}, "limit"),
        ({"send": ["x"], "ask": "y?", "expect": "0", "stage": "prober"}, "stage"),
        ({"send": ["x"], "ask": "y?", "expect": "0", "if": "1"}, "if"),
        ("nothing", "switch_off"),
        (False, "switch_off"),
    ],
)
def test_a_wrong_rule_is_refused_at_its_key(file, meter, said, says):
    add(file, "foreign_drivers.Plain", meter.address, said)
    with pytest.raises(StationFileError, match=says):
        check_station(file)


def test_a_plan_says_how_each_is_switched_off(file, meter):
    assert instruments_not_ours(file) == []
    (line,) = instruments_not_ours(add(file, QCODES, meter.address))
    assert line.startswith("meter: Keithley2450 of qcodes at ") and ":OUTP OFF" in line
    (line,) = instruments_not_ours(add(file, "foreign_drivers.Plain", meter.address, "none"))
    assert line.endswith("has no output")
    assert meter.clients == 0


def test_the_file_with_a_rule_is_one_of_qcodes_own(file, meter, recwarn):
    from qcodes.station import Station

    add(file, QCODES, meter.address, OFF, visalib="@py", timeout=0.2)  # a snapshot asks what it does not answer
    station = Station(config_file=str(file), default=False, update_snapshot=False)
    made = station.load_instrument("meter")
    assert made.metadata["switch_off"] == OFF
    assert not [each for each in recwarn if "Validation" in each.category.__name__]
    station.close_all_registered_instruments()


# -- rules ---------------------------------------------------------------------------------------------------------


def test_known_rules_are_of_classes_that_there_are():
    from importlib import import_module
    from pkgutil import walk_packages

    named = {(known.package, name) for known in off_rules._KNOWN for name in known.classes.split()}
    found = set()
    for package, homes in (
        ("qcodes", ("Keithley", "Keysight", "yokogawa", "rohde_schwarz", "rigol", "HP", "agilent", "Agilent")),
        ("pymeasure", ("keithley", "yokogawa", "kepco", "agilent", "keysight", "hp", "lakeshore")),
    ):
        for home in homes:
            try:
                module = import_module(f"{driver_packages.DRIVERS[package]}.{home}")
            except ImportError:
                continue
            modules = [
                module,
                *(import_module(each.name) for each in walk_packages(module.__path__, f"{module.__name__}.")),
            ]
            found |= {(package, name) for each in modules for name in vars(each)}
    assert named <= found, named - found


def test_a_known_rule_holds_for_what_is_made_of_the_class():
    from foreign_drivers import Better2450

    assert off_rule(Better2450, None).recipe.stage is Stage.SOURCE


@pytest.mark.parametrize(
    "answer, off",
    [(b"0", True), (b"OFF", True), (b"0.000000e+00", True), (b"+0\r", True), (b"1", False), (b"10", False),
     (b"0.1", False), (b"ON", False), (b"", False)],
)  # fmt: skip
def test_what_counts_as_off(answer, off):
    import re

    step = OffRule(send=["OUTP OFF"], ask="OUTP?", expect=off_rules.ZERO).recipe.steps[-1]
    assert (re.fullmatch(step.reply, answer, re.DOTALL) is not None) is off


# -- which names are imported --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["numpy.f2py.__main__.X", "qcodes.instrument_drivers.__main__.X", "instruments.__main__.X", "os.path.X", "this.X",
     "qcodes.utils.deprecate.QCoDeSDeprecationWarning", "qcodes.instrument.VisaInstrument", "foreign_drivers.lower",
     "foreign_drivers.Smuggler.__init__", "qcodes.tests.X", "nowhere.Board", "foreign_driversX.Plain",
     "qcodes.instrument_drivers.Keithley.Keithley_2450.VisaInstrument", "foreign_drivers.Keithley2450X",
     "qcodes.instrument_drivers.nowhere.X", "instruments.bord.FramedBoard", "foreign_drivers.sys.X"],
)  # fmt: skip
def test_a_name_that_is_no_driver_of_an_allowed_package(name, monkeypatch):
    import sys

    before = set(sys.modules)
    with pytest.raises(DriverError):
        driver_packages.find_driver(name)
    assert "__main__" not in {each.rpartition(".")[2] for each in set(sys.modules) - before}


@pytest.mark.parametrize(
    "text", ["raise SystemExit(0)", "input()", "1/0", "import sys; sys.stdin.read(); raise OSError"]
)
def test_a_module_that_acts_when_it_is_imported_ends_nothing(tmp_path, monkeypatch, text):
    (tmp_path / "acting_drivers.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    driver_packages.allow(["acting_drivers"])
    with pytest.raises(DriverError, match="cannot be found"):
        driver_packages.find_driver("acting_drivers.Meter")


def test_the_user_allows_packages_in_his_settings(tmp_path):
    file = driver_packages.settings_file()
    file.parent.mkdir(parents=True)
    file.write_text('allow = ["mylab.drivers"]\n')
    assert driver_packages.allowed()["mylab.drivers"] == "mylab.drivers"
    for wrong in ("allow = 1", "allow = [", 'allow = ["os;"]'):
        file.write_text(wrong)
        with pytest.raises(DriverError, match=r"settings\.toml"):
            driver_packages.allowed()


@pytest.mark.parametrize("package", ["os", "../x", "", "sys.x", "a b"])
def test_what_is_no_package_is_not_allowed(package):
    with pytest.raises(DriverError, match="no name of a package"):
        driver_packages.allow([package])
