"""Drivers of other houses, unmodified, on the instruments of the rack: set, measure through the die, read errors."""

import pytest
from pymeasure.instruments.agilent import Agilent33500
from pymeasure.instruments.keithley import Keithley2600
from qcodes.instrument_drivers.Keithley import Keithley2602B
from qcodes.instrument_drivers.Keysight import Keysight33512B
from virtual_rack import VirtualRack

V_READ = 0.2


@pytest.fixture
def rack(tmp_path):
    """One cell between the channels of the unit, and with them all other lines on ground."""
    rack = VirtualRack(tmp_path)
    rack.connect("1B01,2A01", "H")
    return rack


def expected(rack):
    """Current (A) of the cell at the read voltage, without noise."""
    return float(rack.die.read(0, V_READ)[0, 0])


@pytest.fixture
def addresses(rack):
    with rack.served() as addresses:
        yield addresses


def test_qcodes_2602b(rack, addresses):
    smu = Keithley2602B("smu_q", addresses["smu"], visalib="@py")
    try:
        assert smu.IDN()["model"] == "2602B" and smu.IDN()["vendor"].startswith("Keithley")
        for channel in (smu.smua, smu.smub):
            channel.mode("voltage")
            channel.limiti(1e-3)
            channel.nplc(1)
            channel.volt(0)
            channel.output(True)
            assert channel.output() is True and channel.limiti() == pytest.approx(1e-3)
        smu.smua.volt(V_READ)
        assert smu.smub.curr() == pytest.approx(-expected(rack), rel=0.01)
        assert smu.smua.volt() == pytest.approx(V_READ, rel=1e-3)
        assert smu.smub.curr.measurement_status == "No error occured."
        smu.smua.limiti(1e-5)
        assert smu.smua.curr() == pytest.approx(1e-5, rel=0.01)
        assert smu.smua.curr.measurement_status == "Reached current compliance limit."
        smu.smub.sourcerange_v(1)
        assert smu.smub.sourcerange_v() == 1 and smu.smub.source_autorange_v_enabled() is False
        smu.smua.measurerange_i(1e-3)
        assert smu.smua.measurerange_i() == 1e-3
        snapshot = smu.snapshot(update=True)
        assert snapshot["submodules"]["smua"]["parameters"]["limiti"]["value"] == pytest.approx(1e-5)
        smu.write("smua.source.bogus = 3")
        assert smu.ask("errorqueue.next()").startswith("-2.86000e+02\t")
        smu.reset()
        assert smu.smua.output() is False
    finally:
        smu.close()


def test_pymeasure_2600(rack, addresses):
    smu = Keithley2600(addresses["smu"], visa_library="@py", read_termination="\n", write_termination="\n")
    try:
        for channel in (smu.ChA, smu.ChB):
            channel.source_mode = "voltage"
            channel.compliance_current = 1e-3
            channel.source_voltage = 0
            channel.source_output = "ON"
            assert channel.source_output == "ON" and channel.source_mode == "voltage"
        smu.ChA.source_voltage = V_READ
        assert smu.ChB.current == pytest.approx(-expected(rack), rel=0.01)
        assert smu.ChA.voltage == pytest.approx(V_READ, rel=1e-3)
        assert smu.ChA.resistance == pytest.approx(V_READ / float(smu.ChA.current), rel=1e-2)
        assert smu.next_error == (0, "Queue Is Empty")
        smu.write("smua.source.levelv = 1e6")
        assert smu.next_error[0] == 1101 and smu.next_error[0] == 0
        smu.ChA.apply_current(1e-3, compliance_voltage=0.15)
        smu.ChA.source_current = 1e-4
        assert smu.ChA.source_mode == "current" and smu.ChA.compliance_voltage == pytest.approx(0.15)
        assert smu.ChA.current == pytest.approx(1e-4, rel=0.01)
        for channel in (smu.ChA, smu.ChB):
            channel.source_output = "OFF"
        assert smu.next_error == (0, "Queue Is Empty")
    finally:
        smu.adapter.close()


def test_qcodes_33512b(rack, addresses):
    rack.connect("1H01,2C01", "D")
    pulser = Keysight33512B("pulser_q", addresses["pulser"], silent=True, visalib="@py")
    try:
        assert pulser.model == "33512B"
        for channel, volts in ((pulser.ch1, 1.4), (pulser.ch2, 0.7)):
            pulser.write(f"OUTP{1 if channel is pulser.ch1 else 2}:LOAD INF")
            channel.function_type("PULS")
            channel.pulse_width(1e-6)
            channel.amplitude_unit("VPP")
            channel.amplitude(volts)
            channel.offset(volts / 2)
            channel.burst_mode("N Cycle")
            channel.burst_ncycles(1)
            channel.burst_state("ON")
            channel.trigger_source("BUS")
            channel.output_polarity("NORM")
            channel.output("ON")
            assert channel.function_type() == "PULS" and channel.output() == "ON"
            assert channel.amplitude() == pytest.approx(volts) and channel.pulse_width() == pytest.approx(1e-6)
            assert channel.burst_ncycles() == 1 and channel.trigger_source() == "BUS"
        before = rack.die.devices.conductance[0, 0]
        pulser.force_trigger()
        assert pulser.ask("*OPC?") == "1"
        assert rack.die.devices.conductance[0, 0] > before
        assert len(rack.entries("pulse")) == 1
        assert pulser.error() == (0, "No error")
        pulser.write("BOGUS 1")
        assert pulser.error() == (-113, "Undefined header")
        pulser.ch1.output("OFF")
        pulser.ch2.output("OFF")
        pulser.snapshot(update=True)
    finally:
        pulser.close()


def test_pymeasure_33500(rack, addresses):
    rack.connect("1H01,2C01", "D")
    pulser = Agilent33500(addresses["pulser"], visa_library="@py", read_termination="\n", write_termination="\n")
    try:
        assert "33512B" in pulser.id
        for channel, volts in ((pulser.ch_1, -1.4), (pulser.ch_2, -0.7)):
            channel.output_load = "INF"
            channel.shape = "PULS"
            channel.pulse_period = 1e-5
            channel.pulse_width = 1e-6
            channel.pulse_transition = 1e-8
            channel.voltage_low = volts
            channel.voltage_high = 0
            channel.burst_state = True
            channel.burst_mode = "TRIG"
            channel.burst_ncycles = 1
            pulser.write(f"OUTP{channel.id}:POL INV;:TRIG{channel.id}:SOUR BUS")
            channel.output = "on"
            assert channel.output == "on" or channel.output is True
            assert channel.voltage_low == pytest.approx(volts) and channel.shape == "PULS"
        before = rack.die.devices.conductance[0, 0]
        pulser.display = "pulse"
        pulser.trigger()
        pulser.beep()
        assert pulser.check_errors() == []
        assert rack.die.devices.conductance[0, 0] < before
        pulser.write("FUNC:PULS:WIDT 1")
        assert pulser.check_errors() != []
        pulser.ch_1.output = "off"
        pulser.ch_2.output = "off"
    finally:
        pulser.adapter.close()
