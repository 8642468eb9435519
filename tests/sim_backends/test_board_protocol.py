import socket
import struct
import time

import numpy as np
import pytest
from board_wire import (
    BAD_ARG,
    BAD_CRC,
    BAD_VERSION,
    BUSY,
    INTERLOCK,
    NOT_CALIBRATED,
    OK,
    OVER_RANGE,
    UNKNOWN,
    WATCHDOG,
    BoardWire,
    crc16,
    frame,
)
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st
from running_station import running

from sim_backends.array.dies.mtj_die import Die
from sim_backends.wire import frames

ALL = (1 << 25) - 1


@pytest.fixture(scope="module")
def station():
    with running() as parts:
        yield parts


@pytest.fixture
def board(station):
    """The board with the first die of the route in contact."""
    _, board, prober = station
    board.ok(0x23)
    prober.ask("move_chuck_separation")
    prober.ask("map:step_first_die")
    assert prober.ask("move_chuck_contact")[0] == 0
    return board


def die_under(station):
    bench = station[0].bench
    return bench.die(
        bench.sites.index(tuple(int(x) for x in station[2].ask("map:die:get_current_index")[2].split(",")[1:]))
    )


# -- frames --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=600))
def test_frames_of_both_sides_agree(seq, opcode, payload):
    wire = frame(seq, opcode, payload)
    assert wire.count(0) == 1
    assert frames.encode(frames.Frame(1, seq, opcode, 0, payload)) == wire
    assert frames.decode(wire[:-1]) == frames.Frame(1, seq, opcode, 0, payload)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_any_flipped_bit_is_noticed(payload, data):
    body = bytearray(cobs.decode(frame(1, 0x11, payload)[:-1]))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(frames.DamagedFrameError):
        frames.decode(cobs.encode(bytes(body)))


def test_checksum_of_the_standard_check_text():
    assert crc16(b"123456789") == 0x29B1  # the published check value of this CRC


def test_damaged_frames_are_answered_and_change_nothing(board, station):
    before = die_under(station).operations
    wire = bytearray(frame(9, 0x12, board.pulse_payload(0, 1.2, 200e-9)))
    wire[20] = wire[20] % 255 + 1
    assert board.raw(bytes(wire))[:3] == (0, 0, BAD_CRC)
    assert board.raw(b"\x05\x01\x00")[:3] == (0, 0, BAD_CRC)
    assert board.raw(b"\x01" * 200_000 + b"\x00")[:3] == (0, 0, BAD_CRC)
    assert die_under(station).operations == before
    assert board.ask(0x01)[0] == OK, "the next frame is understood again"


def test_bad_version_length_and_opcode(board):
    assert board.raw(frame(3, 0x01, version=2))[:3] == (3, 0x01, BAD_VERSION)
    assert board.raw(frame(4, 0x01, length=7))[:3] == (4, 0x01, BAD_ARG)
    assert board.raw(frame(5, 0x77))[:3] == (5, 0x77, UNKNOWN)
    assert board.raw(frame(0, 0x01))[:3] == (0, 0x01, BAD_ARG)
    assert board.raw(frame(6, 0x01, flags=1))[:3] == (6, 0x01, BAD_ARG)


def test_several_frames_in_one_segment_and_one_in_many(board):
    board.socket.sendall(frame(1, 0x01) + b"\0\0" + frame(2, 0x24))
    first, second = board.raw(b""), board.raw(b"")
    assert (first[0], second[0]) == (1, 2)
    wire = frame(7, 0x01)
    for byte in wire[:-1]:
        board.socket.sendall(bytes([byte]))
    assert board.raw(wire[-1:])[:3] == (7, 0x01, OK)


# -- identity ------------------------------------------------------------------------------------------------------


def test_identity_and_capabilities(board):
    assert len(board.ok(0x01).decode().split(",")) == 4
    caps = board.caps
    assert (caps["protocol"], caps["rows"], caps["columns"], caps["kernels"]) == (1, 25, 25, 32)
    topology = caps["topology"]
    assert [topology[f"kernel_{what}"][13] for what in ("block", "row", "column")] == [1, 25, 25]
    assert [r["full_scale"] for r in caps["ranges"]] == [1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3]


def test_calibration_is_constant_and_named_by_range(board):
    assert board.ok(0x03, b"\0") == board.ok(0x03, b"\0")
    names = {board.ok(0x03, bytes([index]))[:16] for index in range(5)}
    assert len(names) == 5
    gain, offset = board.calibration(1)
    assert gain.size == 25
    assert np.all((gain > 0) & (abs(offset - 2048) < 40))


# -- reading and pulsing -------------------------------------------------------------------------------------------


def test_a_read_is_the_current_of_each_cell(board, station):
    die = die_under(station)
    expected = die.read(3, board.code(0.1) * board.lsb)
    measured = board.read(3, 0.1, averages=16)
    np.testing.assert_allclose(measured, expected, atol=4e-7, rtol=3e-3)


def test_a_mask_selects_in_row_major_order(board, station):
    mask = np.zeros((25, 25), dtype=bool)
    mask[2, 20] = mask[1, 24] = mask[24, 0] = True
    gain, offset = board.calibration(0)
    rows = np.array([1, 2, 24])
    currents = gain[rows] * (board.read_codes(3, 0.1, mask, averages=64) - offset[rows])
    np.testing.assert_allclose(
        currents, die_under(station).read(3, board.code(0.1) * board.lsb)[mask], atol=2e-7, rtol=2e-3
    )
    assert board.read_codes(3, 0.1, np.zeros((25, 25), dtype=bool)).size == 0


def test_repeated_reads_differ_and_their_mean_narrows(board):
    single = np.array([board.read_codes(5, 0.1) for _ in range(40)])
    mean = np.array([board.read_codes(5, 0.1, averages=16) for _ in range(40)])
    assert (single[0] != single[1]).any()
    # cells with enough noise against the step of the ADC
    narrowing = single.std(axis=0).mean() / mean.std(axis=0).mean()
    assert narrowing == pytest.approx(4, rel=0.15)


def test_a_current_beyond_the_range_gives_an_end_code(board, station):
    shorts = die_under(station).kind == 1
    kernel = int(np.argmax(shorts.sum(axis=(1, 2))))
    healthy = die_under(station).switchable[kernel]
    codes = board.read_codes(kernel, 0.29).reshape(25, 25)
    assert np.all(codes[shorts[kernel]] == 4095), "138 uA in the range of 100 uA"
    assert codes[healthy].max() < 4095
    assert board.read_codes(kernel, 0.29, current_range=1).max() < 4095
    for volts, end in ((0.29, 4095), (-0.29, 0)):
        rest = board.ok(0x14, _one_vector(board, volts, range_=0))
        assert np.all(np.frombuffer(rest[3:], dtype="<u2") == end), "25 cells at once are beyond 100 uA"


def _one_vector(board, volts, range_):
    board.load(0, np.full((1, 25), volts))
    return board.multiply_payload(0, 1, 1, ALL, ALL, range_=range_)


def test_pulses_switch_what_the_mask_selects(board, station):
    die = die_under(station)
    healthy = die.switchable[4]
    left = np.zeros((25, 25), dtype=bool)
    left[:, :12] = True
    board.pulse(4, -1.25, 1e-6, count=3)
    assert not die.devices.antiparallel[4][healthy].any()
    board.pulse(4, 1.25, 1e-6, left, count=3)
    np.testing.assert_array_equal(die.devices.antiparallel[4][healthy], left[healthy])
    current = board.read(4, 0.1)
    assert np.median(current[left & healthy]) < 0.65 * np.median(current[~left & healthy])


def test_pulse_and_read_is_one_exchange(board, station):
    mask = np.zeros((25, 25), dtype=bool)
    mask[0] = True
    payload = struct.pack("<BhIHBHh", 6, board.code(1.25), 1000, 2, 0, 4, board.code(0.1)) + board.mask(mask)
    before = struct.unpack("<BBI", board.ok(0x24))
    rest = board.ok(0x13, payload)
    assert struct.unpack_from("<H", rest) == (25,)
    seq, opcode, actions = struct.unpack("<BBI", board.ok(0x24))
    assert (seq, opcode, actions) == (board.seq - 1, 0x13, before[2] + 1)
    assert die_under(station).devices.antiparallel[6][0][die_under(station).switchable[6][0]].all()


def test_last_action_tells_what_was_fired(board):
    before = struct.unpack("<BBI", board.ok(0x24))[2]
    board.pulse(0, 0.5, 100e-9)
    assert struct.unpack("<BBI", board.ok(0x24)) == (board.seq - 1, 0x12, before + 1)
    assert board.ask(0x12, board.pulse_payload(0, 1.7, 100e-9))[0] == OVER_RANGE
    assert struct.unpack("<BBI", board.ok(0x24))[2] == before + 1, "a refused pulse is none"


# -- multiplying ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [0, 1])
def test_products_are_sums_of_cell_currents(board, station, direction):
    volts = board.load(1, 0.1 * np.random.default_rng(1).random((50, 25)))
    gain, offset = board.calibration(2)
    codes = board.multiply_codes(7, direction, 50, ALL, ALL, bank=1, averages=16)
    g = die_under(station).conductance(0.1)[7]
    expected = volts @ (g if direction else g.T)
    # line drops of a few per cent, towards smaller currents
    ratio = (gain * (codes - offset)).sum(axis=0) / expected.sum(axis=0)
    assert np.all((ratio[expected.sum(axis=0) > 0] > 0.93) & (ratio[expected.sum(axis=0) > 0] < 1.01))


def test_products_of_some_lines(board, station):
    die = die_under(station)
    driven, sensed = [2, 5, 24], [0, 7]
    volts = board.load(2, 0.1 * np.random.default_rng(2).random((20, 3)), start=0)
    bits = [sum(1 << line for line in lines) for lines in (driven, sensed)]
    codes = board.multiply_codes(7, 1, 20, *bits, bank=2, averages=64)
    assert codes.shape == (20, 2)
    gates = np.zeros(25, dtype=bool)
    gates[sensed] = True
    full = np.zeros((20, 25))
    full[:, driven] = volts
    expected = die.product(7, "backward", gates, float(volts.max())).currents(full)[:, sensed]
    gain, offset = board.calibration(2)
    np.testing.assert_allclose(gain[sensed] * (codes - offset[sensed]), expected, atol=5e-7)


def test_long_batches_arrive_in_parts(board):
    volts = board.load(3, np.full((1000, 25), 0.05))
    board.load(3, np.full((1000, 25), 0.05), start=1000)
    assert volts.shape == (1000, 25)
    assert board.multiply_codes(0, 1, 1200, ALL, ALL, bank=3, start=400).shape == (1200, 25)
    assert board.ask(0x14, board.multiply_payload(0, 1, 2000, ALL, ALL, bank=3))[0] == OVER_RANGE
    assert board.ask(0x14, board.multiply_payload(0, 1, 1000, ALL, ALL, bank=3, start=1001))[0] == BAD_ARG


def test_reset_forgets_vectors(board):
    board.load(0, np.zeros((1, 25)))
    board.ok(0x23)
    assert board.ask(0x14, board.multiply_payload(0, 1, 1, ALL, ALL))[0] == BAD_ARG


# -- what is refused -----------------------------------------------------------------------------------------------


def read_payload(board, **changes):
    values = {"kernel": 0, "range_": 0, "averages": 1, "code": 10} | changes
    return struct.pack("<BBHh", *values.values()) + board.mask(None)


def pulse_payload(board, **changes):
    values = {"kernel": 0, "code": 100, "width": 200, "count": 1} | changes
    return struct.pack("<BhIH", *values.values()) + board.mask(None)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"kernel": 32}, BAD_ARG),
        ({"range_": 5}, BAD_ARG),
        ({"averages": 0}, BAD_ARG),
        ({"averages": 257}, OVER_RANGE),
        ({"code": 246}, OVER_RANGE),
        ({"code": -246}, OVER_RANGE),
        ({"code": 245}, OK),
    ],
)
def test_reads_refused(board, changes, status):
    assert board.ask(0x11, read_payload(board, **changes))[0] == status


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"kernel": 32}, BAD_ARG),
        ({"code": 1352}, OVER_RANGE),
        ({"code": -1352}, OVER_RANGE),
        ({"width": 10}, OVER_RANGE),
        ({"width": 1_000_010}, OVER_RANGE),
        ({"width": 25}, BAD_ARG),
        ({"count": 0}, BAD_ARG),
        ({"count": 1001}, OVER_RANGE),
        ({"width": 1_000_000, "count": 1000}, OK),
    ],
)
def test_pulses_refused(board, station, changes, status):
    before = die_under(station).devices.antiparallel.copy()
    assert board.ask(0x12, pulse_payload(board, **changes))[0] == status
    if status != OK:
        np.testing.assert_array_equal(die_under(station).devices.antiparallel, before)


def limits(board, *wanted):
    return struct.unpack("<hh", board.ok(0x25, struct.pack("<hh", *wanted) if wanted else b""))


@pytest.fixture
def unlimited(board):
    """The board, which gets its own limits back."""
    widest = limits(board)
    yield board
    limits(board, *widest)


def test_limits_of_the_station_are_narrower_than_the_boards(unlimited):
    board = unlimited
    assert board.caps["limits"] is True
    assert limits(board) == (-1351, 1351), "1.65 V"
    assert limits(board, -900, 1000) == (-900, 1000) == limits(board)
    for wanted, status in (((-1352, 10), OVER_RANGE), ((0, 1352), OVER_RANGE), ((10, 9), BAD_ARG)):
        assert board.ask(0x25, struct.pack("<hh", *wanted))[0] == status
        assert limits(board) == (-900, 1000)
    assert board.ask(0x25, b"\0")[0] == BAD_ARG
    assert limits(board, -1351, 1351) == (-1351, 1351)


@given(
    st.integers(-1351, 1351).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 1351))),
    st.integers(-1400, 1400),
)
def test_pulses_beyond_the_limits_in_force_are_refused(station, in_force, code):
    board = station[1]
    board.ok(0x23)
    limits(board, *in_force)
    both = struct.pack("<BhIHBHh", 0, code, 100, 1, 0, 1, 80) + bytes(79)
    expected = OK if in_force[0] <= code <= in_force[1] else OVER_RANGE
    assert board.ask(0x12, pulse_payload(board, code=code, width=100))[0] == expected
    assert board.ask(0x13, both)[0] == expected
    limits(board, -1351, 1351)


def test_limits_outlast_reset_stop_and_connection(serve):
    with serve() as (station, board, _):
        limits(board, -5, 7)
        board.ok(0x21)
        assert limits(board) == (-5, 7), "also told while latched"
        board.ok(0x23)
        board.close()
        again = BoardWire(station.addresses()["board"])
        assert limits(again) == (-5, 7)
        again.close()


def test_wrong_lengths_are_refused(board):
    for opcode, payload in (
        (0x01, b"x"),
        (0x03, b""),
        (0x10, struct.pack("<BHHB", 0, 0, 2, 25) + bytes(50)),
        (0x11, read_payload(board)[:-1]),
        (0x12, pulse_payload(board) + b"\0"),
        (0x13, b"\0"),
        (0x14, b""),
        (0x20, b""),
        (0x20, b"\3"),
        (0x22, b"\0"),
        (0x23, b"\0"),
        (0x24, b"\0"),
    ):
        assert board.ask(opcode, payload)[0] == BAD_ARG, hex(opcode)
    stray = bytearray(pulse_payload(board))
    stray[-1] |= 0x80  # a cell that does not exist
    assert board.ask(0x12, bytes(stray))[0] == BAD_ARG


def test_products_refused(board):
    def load(bank, start, count, n):
        return board.ask(0x10, struct.pack("<BHHB", bank, start, count, n) + bytes(2 * count * n))[0]

    assert load(16, 0, 1, 25) == BAD_ARG
    assert load(0, 0, 0, 25) == BAD_ARG
    assert load(0, 0, 1, 26) == BAD_ARG
    assert load(0, 4096, 1, 25) == OVER_RANGE
    assert load(5, 3, 1, 25) == BAD_ARG, "n of a bank is set by a write with start 0"
    assert load(0, 0, 1, 25) == OK
    assert load(0, 1, 1, 24) == BAD_ARG

    def multiply(*args, **kwargs):
        return board.ask(0x14, board.multiply_payload(*args, **kwargs))[0]

    assert multiply(0, 1, 1, ALL, ALL) == OK
    assert multiply(0, 2, 1, ALL, ALL) == BAD_ARG
    assert multiply(0, 1, 1, ALL >> 1, ALL) == BAD_ARG, "driven lines are not the vector's elements"
    assert multiply(0, 1, 1, ALL, 0) == BAD_ARG
    assert multiply(0, 1, 1, 1 << 25, ALL) == BAD_ARG
    assert multiply(0, 1, 2, ALL, ALL) == BAD_ARG, "not loaded"
    board.load(0, np.full((1, 25), 0.301))
    assert multiply(0, 1, 1, ALL, ALL) == OVER_RANGE


def test_busy_and_not_calibrated(serve):
    spec = {"self_test": 30, "readout": {"uncalibrated_ranges": (4,)}}
    with serve(board=spec) as (_, board, _):
        assert board.ask(0x11, read_payload(board))[0] == BUSY
        assert board.ask(0x03, b"\4")[0] == NOT_CALIBRATED
        assert board.ask(0x03, b"\3")[0] == OK


# -- safety --------------------------------------------------------------------------------------------------------


def test_emergency_stop_latches(board, station):
    board.ok(0x20, b"\0")
    board.ok(0x21)
    assert station[0].bench.outputs == "hard_ground"
    before = die_under(station).devices.antiparallel.copy()
    for opcode, payload in ((0x12, pulse_payload(board)), (0x11, read_payload(board)), (0x22, bytes(4)), (0x20, b"\0")):
        assert board.ask(opcode, payload)[0] == INTERLOCK
    np.testing.assert_array_equal(die_under(station).devices.antiparallel, before)
    for opcode in (0x01, 0x02, 0x21, 0x24):
        assert board.ask(opcode)[0] == OK
    assert board.ask(0x20, b"\2")[0] == OK
    board.ok(0x23)
    assert board.ask(0x11, read_payload(board))[0] == OK


def test_watchdog_grounds_the_lines_while_the_host_is_silent(board, station):
    board.ok(0x20, b"\0")
    board.ok(0x22, struct.pack("<I", 150))
    for _ in range(4):
        time.sleep(0.06)
        board.ok(0x01)
    assert station[0].bench.outputs == "float", "any frame restarts it"
    deadline = time.monotonic() + 5
    while station[0].bench.outputs != "hard_ground" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert station[0].bench.outputs == "hard_ground", "without a frame of the host"
    assert board.ask(0x12, pulse_payload(board))[0] == WATCHDOG
    board.ok(0x23)
    board.pulse(0, 0.1, 100e-9)


def test_watchdog_can_be_disarmed(board):
    board.ok(0x22, struct.pack("<I", 50))
    board.ok(0x22, struct.pack("<I", 0))
    time.sleep(0.1)
    assert board.ask(0x11, read_payload(board))[0] == OK


def test_a_second_client_is_closed_at_once(board, station):
    host, port = station[0].addresses()["board"].removeprefix("socket://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as second:
        assert second.recv(10) == b""
    assert board.ask(0x01)[0] == OK


def test_the_next_client_finds_the_board_as_it_was(serve):
    with serve() as (station, board, _):
        board.ok(0x21)
        board.socket.sendall(b"\x05half a frame")
        board.close()
        again = BoardWire(station.addresses()["board"])
        assert again.ask(0x11, read_payload(again))[0] == INTERLOCK
        again.close()


def test_a_client_may_come_again_at_once(serve):
    with serve() as (fresh, board, _):
        address = fresh.addresses()["board"]
        for _ in range(30):
            board.close()
            board = BoardWire(address)
        board.close()


def test_without_contact_there_is_only_offset_and_noise(serve):
    with serve() as (station, board, prober):
        prober.ask("map:step_first_die")
        in_air = board.read(0, 0.1, averages=4)
        assert np.abs(in_air).max() < 2e-7
        board.load(0, np.full((10, 25), 0.1))
        gain, offset = board.calibration(2)
        assert np.abs(gain * (board.multiply_codes(0, 1, 10, ALL, ALL) - offset)).max() < 1e-6
        die = station.bench.die(station.bench.sites.index((2, 3)))
        before, operations = die.devices.antiparallel.copy(), die.operations
        board.pulse(0, 1.25, 1e-6)
        np.testing.assert_array_equal(die.devices.antiparallel, before)
        assert die.operations == operations
        prober.ask("move_chuck_contact")
        assert np.median(board.read(0, 0.1)) > 5e-6


def test_noise_depends_on_die_kernel_and_operation_only(serve):
    def readings(*, chatter):
        with serve() as (_, board, prober):
            prober.ask("map:step_first_die")
            prober.ask("move_chuck_contact")
            results = []
            for kernel in (0, 1, 0):
                if chatter:
                    board.ok(0x01)
                    board.ok(0x22, struct.pack("<I", 0))
                results.append(board.read_codes(kernel, 0.1))
            return results

    quiet, chatty = readings(chatter=False), readings(chatter=True)
    np.testing.assert_array_equal(quiet, chatty)
    assert (quiet[0] != quiet[2]).any()


def test_a_die_is_the_same_whether_met_on_the_wire_or_drawn(board, station, lot):
    drawn = Die.from_lot(lot, 7, station[0].bench.sites.index((2, 3)))
    np.testing.assert_array_equal(drawn.devices.r_p, die_under(station).devices.r_p)
