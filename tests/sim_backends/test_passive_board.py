"""Passive dies over the wires of a station: the driver of the board here, arrays that are solved on their own there."""

import json
import struct
from contextlib import contextmanager

import numpy as np
import pytest
from board_wire import BAD_ARG
from running_station import running
from test_passive_die import cell, twin_of

from instruments.drivers.board import FramedBoard
from instruments.roles.interfaces import ArrayTester, LimitError
from sim_backends.array.circuit.bias import SCHEMES
from sim_backends.array.dies.passive_die import PassiveDie
from sim_backends.array.dies.streams import stream
from sim_backends.bench.bench import StateError
from sim_backends.station import Station, StationConfig, StationError

WIDTH = 1.04e-6
SEED = 7  # of the stations of `running`
NOISE = 5  # purpose of the stream of pulses and reads


@pytest.fixture
def sound(tmp_path, sound_lot):
    """A lot file of passive dies without defects."""
    return lot_file(tmp_path / "sound.yaml", sound_lot)


def lot_file(path, lot):
    path.write_text(json.dumps({"kind": lot.kind, **lot.model_dump(mode="json")}), encoding="utf-8")  # JSON is YAML
    return str(path)


def in_contact(prober):
    prober.ask("map:step_first_die")
    assert prober.ask("move_chuck_contact")[0] == 0


class Driven:
    """A station, the driver of its board, and the die under the needles as nobody at a wire sees it."""

    def __init__(self, station, array):
        self.station, self.array = station, array

    @property
    def die(self):
        return self.station.bench.touched()


@contextmanager
def driving(pulse_limit=None, **config):
    """A station with our driver at its board, the needles on the first die."""
    with running(**config) as (station, board, prober):
        board.close()  # a board has one client
        in_contact(prober)
        array = FramedBoard("passive", station.addresses()["board"], pulse_limit=pulse_limit)
        try:
            yield Driven(station, array)
        finally:
            array.close()


@pytest.fixture
def driven(sound, tmp_path):
    with driving(lot=sound, log=tmp_path / "physical.jsonl") as under:
        yield under


def test_the_board_says_what_it_holds(driven):
    caps = driven.array.capabilities()
    assert isinstance(driven.array, ArrayTester)
    assert (caps.rows, caps.columns, caps.kernels, caps.cell) == (8, 8, 1, "1R")
    assert caps.schemes == ("V/2", "V/3", "grounded", "floating")
    assert caps.v_min < -2.4 and caps.v_max > 2.1


@pytest.mark.parametrize("amplitude", [1.6, -1.7])
@pytest.mark.parametrize("scheme", ["V/2", "V/3"])
def test_a_pulse_moves_a_cell_and_its_neighbours_as_the_array_says(driven, scheme, amplitude):
    """As seen by reads over the wire, and in the die itself."""
    die, mask = driven.die, cell(driven.die, 3, 6)
    twin, before = twin_of(die), driven.array.read(0, 0.2, averages=256) / 0.2
    operation = die.operations
    driven.array.pulse(0, mask, amplitude, WIDTH, count=2, scheme=scheme)
    after = driven.array.read(0, 0.2, averages=256) / 0.2
    volts = round(amplitude / (5 / 4096)) * (5 / 4096)
    rng = stream(SEED, die.index, NOISE, 0, operation)
    seen = [twin.pulse(mask.any(1), mask.any(0), volts, WIDTH, rng, SCHEMES[scheme]).v_cell for _ in range(2)]
    np.testing.assert_allclose(die.devices.conductance, twin.devices.g, rtol=1e-5)
    lost = die.read(0, 0.2) / 0.2 - die.devices.conductance  # what the lines take, a few per cent
    expected = twin.devices.g + lost
    np.testing.assert_allclose(after, expected, rtol=2e-3, atol=0.3e-6)
    assert np.sign(amplitude) * (after - before)[3, 6] > 5e-6
    if scheme == "V/2":
        half = (after - before)[mask.any(1)[:, None] ^ mask.any(0)]
        assert (np.sign(amplitude) * half > 0.5e-6).any(), "half-selected cells move too"
    driven.station.log.flush()
    entry = [e for e in logged(driven) if e["what"] == "pulse"][-1]
    assert (entry["scheme"], entry["count"], entry["cells"]) == (scheme, 2, 1)
    assert entry["v_other"] == pytest.approx(max(np.abs(np.where(mask, 0, v)).max() for v in seen), rel=1e-5)


def logged(driven):
    return [json.loads(line) for line in driven.station.log.path.read_text(encoding="utf-8").splitlines()]


def test_pulse_and_read_reads_the_pulsed_cells(driven):
    mask = cell(driven.die, 1, 1) | cell(driven.die, 1, 2)
    seen = driven.array.pulse_and_read(0, mask, 1.5, WIDTH, 0.2, averages=64, scheme="V/3")
    assert np.isnan(seen[~mask]).all()
    np.testing.assert_allclose(seen[mask], driven.die.read(0, 0.2)[mask], rtol=5e-3)


def test_noise_of_reads_is_that_of_the_devices_and_the_board(driven):
    """150 reads of one sample: white, and as large as both together, to 12 % (2 SD of such an estimate)."""
    reads = np.stack([driven.array.read(0, 0.2, current_range=1) for _ in range(150)])
    die, readout = driven.die, driven.station.bench.lot.read_by(driven.station.config.board.readout)
    current = die.read(0, 0.2)
    lsb = 2 * readout.full_scales[1] * (1 + readout.headroom) / 2**readout.adc_bits
    expected = np.sqrt((die.devices.read_noise() * current) ** 2 + readout.current_noise**2 + lsb**2 / 12)
    assert np.median(reads.std(axis=0) / expected) == pytest.approx(1.0, abs=0.12)
    again = PassiveDie.from_lot(driven.station.bench.lot, SEED, die.index)
    assert again.noise(0).random() == stream(SEED, die.index, NOISE, 0, 0).random()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_product_has_all_lines_at_once(driven, direction):
    vectors = np.random.default_rng(1).uniform(-0.2, 0.2, (40, 8))
    driven.array.load_vectors(0, vectors)
    found = driven.array.multiply(0, 0, direction=direction, current_range=4, averages=64)
    lsb = driven.array.capabilities().dac_lsb
    applied = np.rint(vectors / lsb) * lsb
    i_row, i_column = driven.die.terminal_currents(*((0.0, applied) if direction == "forward" else (applied, 0.0)))
    np.testing.assert_allclose(found, -(i_row if direction == "forward" else i_column), rtol=2e-3, atol=1.5e-6)


def test_a_line_that_is_not_driven_is_held_at_ground(driven):
    driven.array.load_vectors(0, np.array([[0.2, 0.1]]))
    lines = np.isin(np.arange(8), (2, 5))
    found = driven.array.multiply(0, 0, driven=lines, sensed=~lines, current_range=3, averages=64)
    v_row = np.where(lines, [0, 0, 0.2, 0, 0, 0.1, 0, 0], 0.0)
    np.testing.assert_allclose(found[0], -driven.die.terminal_currents(v_row, 0.0)[1][~lines], atol=0.6e-6)


def test_64_lines_take_wide_words():
    with driving(lot="tio2-64x64", dies=1) as under:
        array, die = under.array, under.die
        vectors = np.zeros((2, 2))
        vectors[0], vectors[1] = (0.1, 0.2), (0.0, 0.2)
        array.load_vectors(0, vectors)
        ends = np.isin(np.arange(64), (0, 63))
        found = array.multiply(0, 0, driven=ends, sensed=ends, current_range=3, averages=64)
        lsb = array.capabilities().dac_lsb
        v_row = np.zeros((2, 64))
        v_row[:, ends] = np.rint(vectors / lsb) * lsb
        np.testing.assert_allclose(found, -die.terminal_currents(v_row, 0.0)[1][:, ends], rtol=0.01, atol=1e-6)
        whole = array.read(0, 0.2, averages=4, current_range=4)
        usable = np.isfinite(whole)
        np.testing.assert_allclose(whole[usable], die.read(0, 0.2)[usable], rtol=0.05, atol=3e-6)


def test_a_passive_array_is_never_pulsed_without_a_scheme(driven):
    mask, before = cell(driven.die, 0, 0), driven.array.last_action()
    for scheme, says in ((None, "needs a bias scheme"), ("V/4", "'V/4': the tester has V/2")):
        with pytest.raises(LimitError, match=says):
            driven.array.pulse(0, mask, 1.0, WIDTH, scheme=scheme)
        with pytest.raises(LimitError, match=says):
            driven.array.pulse_and_read(0, mask, 1.0, WIDTH, 0.1, scheme=scheme)
    assert driven.array.last_action() == before


def test_the_station_may_allow_less_than_the_board(sound):
    with driving(lot=sound, pulse_limit=1.2) as under:
        array = under.array
        mask = np.zeros((8, 8), dtype=bool)
        mask[0, 0] = True
        with pytest.raises(LimitError, match=r"1\.2 V"):
            array.pulse(0, mask, 1.3, WIDTH, scheme="V/2")
        array.pulse(0, mask, 1.2, WIDTH, scheme="V/2")


@pytest.mark.parametrize(
    ("tail", "says"),
    [(b"", "number of a bias scheme"), (b"\x04", "bias scheme 4; known: 0 V/2, 1 V/3"), (b"\x00\x00", "number")],
)
def test_the_board_refuses_a_pulse_whose_scheme_is_missing_or_unknown(sound, tail, says):
    with running(lot=sound) as (_, board, prober):
        in_contact(prober)
        payload = board.pulse_payload(0, 1.0, WIDTH, np.eye(8, dtype=bool))
        status, text = board.ask(0x12, payload + tail)
        assert status == BAD_ARG and says.encode() in text
        assert struct.unpack("<BBI", board.ok(0x24))[2] == 0
        board.ok(0x12, payload + b"\x01")
        assert struct.unpack("<BBI", board.ok(0x24))[2] == 1


def test_a_board_of_gated_cells_takes_no_scheme():
    with running() as (_, board, prober):
        in_contact(prober)
        assert "schemes" not in board.caps
        status, _ = board.ask(0x12, board.pulse_payload(0, 0.5, 1e-7) + b"\x00")
        assert status == BAD_ARG
    with driving() as under, pytest.raises(LimitError, match="2T1R have gates and take none"):
        under.array.pulse(0, np.ones((25, 25), dtype=bool), 0.5, 1e-7, scheme="V/2")


def test_cells_that_a_pulse_breaks_are_found_by_reads(driven):
    mask = cell(driven.die, 4, 4)
    driven.array.pulse(0, mask, 2.45, WIDTH, scheme="V/3")
    assert driven.die.devices.broken[4, 4]
    assert driven.array.read(0, 0.1, mask=mask, current_range=4)[4, 4] > 0.4e-3, "a short behind its lines"


def test_state_survives_the_station(sound, tmp_path):
    config = {"lot": sound, "state": tmp_path / "dies", "truth": tmp_path / "truth.npz", "dies": 2}
    with driving(**config) as under:
        under.array.pulse(0, cell(under.die, 2, 2), 1.8, WIDTH, count=3, scheme="V/2")
        under.array.pulse(0, cell(under.die, 5, 5), -2.5, WIDTH, scheme="V/3")
        left, operations, index = under.die.devices.conductance, under.die.operations, under.die.index
    with driving(**config) as under:
        die = under.die
        assert (die.index, die.operations) == (index, operations)
        np.testing.assert_array_equal(die.devices.conductance, left)
        assert die.devices.broken[5, 5] and die.devices.broken.sum() == 1
    with np.load(tmp_path / "truth.npz", allow_pickle=False) as truth:
        place = truth["die"].tolist().index(index)
        np.testing.assert_array_equal(truth["g"][place, 0], left)
        assert json.loads(str(truth["meta"]))["cell"] == "1R"
        assert truth["broken"][place, 0, 5, 5] and truth["site"].shape == (2, 2)


@pytest.mark.parametrize("harm", ["cut", "of another lot", "a conductance out of bounds", "text"])
def test_a_damaged_state_is_named_before_anything_is_served(sound, tmp_path, harm):
    with running(lot=sound, state=tmp_path / "dies") as (station, board, prober):
        in_contact(prober)
        board.read(0, 0.1)
        index = station.bench.touched().index
    path = tmp_path / "dies" / f"die_{index}.npz"
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif harm == "text":
        path.write_text("no archive")
    else:
        with np.load(path) as saved:
            arrays = dict(saved)
        if harm == "of another lot":
            arrays["identity"] = np.array(json.dumps({"lot": "mtj", "seed": 7, "die": index, "shape": [32, 25, 25]}))
        else:
            arrays["g"] = arrays["g"] * 100
        np.savez(path, **arrays)
    with pytest.raises((StateError, StationError), match=r"die_\d+\.npz"):
        Station(StationConfig(lot=sound, seed=SEED, dies=3, state=tmp_path / "dies"))
