"""`FramedBoard` against a scripted board: values, limits, and every way in which a reply can be lost."""

import threading
import time

import numpy as np
import pytest
from scripted_peers import (
    CAPS,
    ScriptedBoard,
    damage_reply,
    delay,
    disconnect,
    lose_reply,
    not_fired,
    restarted,
    send_twice,
)

from instruments.board_protocol.frames import Frame, Opcode, Status, decode, encode
from instruments.board_protocol.link import BoardError
from instruments.drivers.board import FramedBoard
from instruments.roles.interfaces import InstrumentError, LimitError, LinkError, PulseNotFiredError, UnknownOutcomeError

CURRENTS = 1e-6 * (np.arange(3)[:, None] + 0.1 * np.arange(4)[None, :])
ONE = np.zeros((3, 4), dtype=bool)
ONE[1, 2] = True


class TestValues:
    def test_identity_and_capabilities(self, board, peer_board):
        assert board.identify() == "lab,scripted,007,1.0"
        assert board.IDN()["serial"] == "007"
        assert board.capabilities().kernel_column == (0, 4)
        assert board.v_read_max() == 0.3

    def test_connecting_asks_and_changes_nothing(self, board, peer_board):
        harmless = {Opcode.IDN, Opcode.CAPS, Opcode.CAL_READ, Opcode.LAST_ACTION}
        assert {frame.opcode for frame in peer_board.frames} <= harmless

    def test_read_all(self, board):
        np.testing.assert_allclose(board.read(0, 0.1), CURRENTS, atol=1e-11)

    def test_read_masked_is_nan_elsewhere(self, board, peer_board):
        currents = board.read(1, 0.1, mask=ONE, current_range=0, averages=4)
        np.testing.assert_allclose(currents[ONE], CURRENTS[ONE], atol=1e-11)
        assert np.isnan(currents[~ONE]).all()
        assert peer_board.count(Opcode.READ) == 1
        read = next(frame for frame in peer_board.frames if frame.opcode == Opcode.READ)
        assert read.payload[0] == 1 and int.from_bytes(read.payload[2:4], "little") == 4
        assert int.from_bytes(read.payload[4:6], "little", signed=True) == round(0.1 / CAPS["dac_lsb"])

    def test_saturated_cells_are_infinite(self, board, peer_board):
        peer_board.saturate = True
        currents = board.read(0, 0.1)
        assert currents[0, 0] == -np.inf and currents[0, 1] == np.inf and np.isfinite(currents[0, 2:]).all()

    def test_ranges_scale_and_calibrations_are_asked_once(self, board, peer_board):
        np.testing.assert_allclose(board.read(0, 0.1, current_range=1), CURRENTS / 10, atol=1e-12)
        board.read(0, 0.1, current_range=1)
        assert board.calibration_id(1) == "cal-1"
        assert peer_board.count(Opcode.CAL_READ) == 1

    def test_range_for_is_the_smallest_that_fits(self, board):
        assert (board.range_for(9e-6), board.range_for(-9e-6), board.range_for(5e-5)) == (1, 1, 0)
        with pytest.raises(LimitError, match="largest range"):
            board.range_for(1.0)

    def test_nothing_selected_sends_nothing(self, board, peer_board):
        nothing = np.zeros((3, 4), dtype=bool)
        before = len(peer_board.frames)
        board.pulse(0, nothing, 0.5, 100e-9)
        assert np.isnan(board.read(0, 0.1, mask=nothing)).all()
        assert np.isnan(board.pulse_and_read(0, nothing, 0.5, 100e-9, 0.1)).all()
        assert len(peer_board.frames) == before

    def test_pulse_and_read(self, board, peer_board):
        currents = board.pulse_and_read(0, ONE, 0.5, 200e-9, 0.1, count=3)
        np.testing.assert_allclose(currents[ONE], CURRENTS[ONE], atol=1e-11)
        assert board.last_action()[1] == 1

    def test_batches_are_cut_to_what_a_frame_carries(self, board, peer_board):
        vectors = np.linspace(-0.3, 0.3, 20_000)[:, None] * np.ones(3)
        board.load_vectors(2, vectors)
        currents = board.multiply(0, 2, direction="backward")
        assert peer_board.count(Opcode.LOAD_VECTORS) == 2 and peer_board.count(Opcode.MULTIPLY) == 3
        assert currents.shape == (20_000, 4)
        gain = 1e-4 / 2000
        expected = gain * np.clip(np.rint(vectors[:, :1] / CAPS["dac_lsb"]), -245, 245)
        np.testing.assert_allclose(currents, expected * np.ones(4), atol=1e-11)

    def test_multiply_a_part(self, board):
        vectors = 0.01 * np.arange(10)[:, None] * np.ones(2)
        board.load_vectors(0, vectors)
        columns, rows = np.array([True, False, False, True]), np.array([False, True, True])
        currents = board.multiply(1, 0, direction="forward", driven=columns, sensed=rows, start=4, count=3)
        assert currents.shape == (3, 2)
        full = board.multiply(1, 0, direction="forward", driven=columns)
        assert full.shape == (10, 3)
        np.testing.assert_array_equal(currents[:, 0], full[4:7, 0])

    def test_voltages_at_the_limit_stay_within_it(self, board, peer_board):
        board.read(0, 0.3)
        board.read(0, -0.3)
        codes = [int.from_bytes(f.payload[4:6], "little", signed=True) for f in peer_board.frames if f.opcode == 0x11]
        assert codes == [245, -245]  # 246 would be the nearest code, and beyond 0.3 V


class TestLimits:
    @pytest.mark.parametrize(
        "request_, limit",
        [
            (lambda b: b.read(0, 0.31), "v_read_max"),
            (lambda b: b.read(0, float("nan")), "v_read_max"),
            (lambda b: b.read(2, 0.1), "kernel"),
            (lambda b: b.read(0, 0.1, current_range=7), "range 7"),
            (lambda b: b.read(0, 0.1, averages=1000), "averages_max"),
            (lambda b: b.read(0, 0.1, mask=np.ones((4, 3), bool)), "mask"),
            (lambda b: b.read(0, 0.1, mask=np.ones((3, 4))), "mask"),
            (lambda b: b.pulse(0, ONE, 1.7, 1e-7), "v_max"),
            (lambda b: b.pulse(0, ONE, -1.7, 1e-7), "v_min"),
            (lambda b: b.pulse(0, ONE, 1.0, 1e-8), "width_min"),
            (lambda b: b.pulse(0, ONE, 1.0, 1.0), "width_max"),
            (lambda b: b.pulse(0, ONE, 1.0, 205e-9), "width_step"),
            (lambda b: b.pulse(0, ONE, 1.0, 1e-7, count=1001), "count_max"),
            (lambda b: b.pulse(0, ONE, 1.0, 1e-7, count=0), "count"),
            (lambda b: b.pulse_and_read(0, ONE, 1.0, 1e-7, 0.5), "v_read_max"),
            (lambda b: b.load_vectors(0, np.full((2, 3), 0.4)), "v_read_max"),
            (lambda b: b.load_vectors(16, np.zeros((2, 3))), "bank"),
            (lambda b: b.load_vectors(0, np.zeros(3)), "vectors"),
            (lambda b: b.multiply(0, 3), "nothing was loaded"),
            (lambda b: b.multiply(0, 0, direction="up"), "direction"),
            (lambda b: b.idle("off"), "idle mode"),
            (lambda b: b.arm_watchdog(-1), "watchdog"),
        ],
    )
    def test_refused_before_anything_is_sent(self, board, peer_board, request_, limit):
        before = len(peer_board.frames)
        with pytest.raises(LimitError, match=limit):
            request_(board)
        assert len(peer_board.frames) == before

    def test_a_station_may_allow_less_than_the_board(self, peer_board):
        board = FramedBoard("tight", peer_board.address, pulse_limit=0.9)
        with pytest.raises(LimitError, match=r"0\.95 V is beyond .* 0\.9 V"):
            board.pulse(0, ONE, 0.95, 1e-7)
        board.close()

    def test_driven_lines_must_fit_the_vectors(self, board):
        board.load_vectors(0, np.zeros((2, 2)))
        with pytest.raises(LimitError, match="2 lines, 3 are driven"):
            board.multiply(0, 0)
        with pytest.raises(LimitError, match="not in bank"):
            board.multiply(0, 0, driven=np.array([True, True, False]), start=1, count=2)


class TestFaults:
    @pytest.mark.parametrize("fault", [lose_reply, damage_reply, disconnect, delay(0.5)])
    def test_a_read_survives(self, board, peer_board, fault):
        peer_board.faults[Opcode.READ] = [fault]
        np.testing.assert_allclose(board.read(0, 0.1), CURRENTS, atol=1e-11)
        assert peer_board.count(Opcode.READ) == 2
        assert board.repeated_requests() >= 1

    def test_a_read_is_not_repeated_for_ever(self, board, peer_board):
        peer_board.faults[Opcode.READ] = [disconnect] * 10
        with pytest.raises(LinkError):
            board.read(0, 0.1)
        assert peer_board.count(Opcode.READ) == 4
        peer_board.faults.clear()
        np.testing.assert_allclose(board.read(0, 0.1), CURRENTS, atol=1e-11)

    def test_a_doubled_reply_is_not_the_next_answer(self, board, peer_board):
        peer_board.faults[Opcode.READ] = [send_twice]
        board.read(0, 0.1, mask=ONE)
        np.testing.assert_allclose(board.read(0, 0.1), CURRENTS, atol=1e-11)
        assert peer_board.count(Opcode.READ) == 2

    def test_a_busy_board_is_asked_again(self, board, peer_board):
        peer_board.refuse[Opcode.READ] = [Status.BUSY, Status.BUSY]
        board.read(0, 0.1)
        assert peer_board.count(Opcode.READ) == 3

    @pytest.mark.parametrize("fault", [lose_reply, damage_reply, disconnect])
    def test_a_pulse_that_was_fired_is_never_sent_again(self, board, peer_board, fault):
        board.pulse(0, ONE, 0.5, 1e-7)
        peer_board.faults[Opcode.PULSE] = [fault]
        board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 2 and peer_board.actions == 2
        assert board.recovered_pulses() == 1
        board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 3 and board.recovered_pulses() == 1

    def test_a_pulse_whose_reply_is_late_is_not_sent_again(self, board, peer_board):
        peer_board.faults[Opcode.PULSE] = [delay(0.6)]
        board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 1

    def test_a_pulse_that_was_not_fired_is_left_to_the_caller(self, board, peer_board):
        board.pulse(0, ONE, 0.5, 1e-7)
        peer_board.faults[Opcode.PULSE] = [not_fired]
        with pytest.raises(PulseNotFiredError, match="nothing was fired"):
            board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 2
        board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 3

    def test_a_board_that_started_anew_cannot_tell(self, board, peer_board):
        board.pulse(0, ONE, 0.5, 1e-7)
        peer_board.faults[Opcode.PULSE] = [restarted]
        with pytest.raises(UnknownOutcomeError, match="restarted"):
            board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 2

    def test_a_board_that_is_gone_cannot_tell(self, board, peer_board):
        board.pulse(0, ONE, 0.5, 1e-7)
        peer_board.faults[Opcode.PULSE] = [disconnect]
        peer_board.faults[Opcode.IDN] = [disconnect] * 20
        with pytest.raises(UnknownOutcomeError, match="could not be asked"):
            board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 1 + 1

    def test_a_lost_reading_after_a_pulse_is_read_again_not_pulsed_again(self, board, peer_board):
        peer_board.faults[Opcode.PULSE_READ] = [lose_reply]
        currents = board.pulse_and_read(0, ONE, 0.5, 1e-7, 0.1)
        np.testing.assert_allclose(currents[ONE], CURRENTS[ONE], atol=1e-11)
        assert peer_board.count(Opcode.PULSE_READ) == 1 and peer_board.count(Opcode.READ) == 1

    def test_an_interrupted_pulse_is_not_held_against_the_next(self, board, peer_board, monkeypatch):
        board.pulse(0, ONE, 0.5, 1e-7)
        transport = board._link.port._transport._transport  # within the lock of its address
        monkeypatch.setattr(transport, "_arriving", lambda deadline: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            board.pulse(0, ONE, 0.5, 1e-7)
        monkeypatch.undo()
        board.pulse(0, ONE, 0.5, 1e-7)
        assert peer_board.count(Opcode.PULSE) == 3 and peer_board.actions == 3
        assert board.recovered_pulses() == 0

    def test_another_board_at_the_same_address_is_refused(self, board, peer_board):
        peer_board.identity = "lab,scripted,008,1.0"
        peer_board.faults[Opcode.READ] = [disconnect]
        with pytest.raises(InstrumentError, match="008"):
            board.read(0, 0.1)

    def test_a_damaged_request_is_repeated_if_it_pulses_nothing(self, board, peer_board, monkeypatch):
        transport = board._link.port._transport._transport  # within the lock of its address
        real_send, damaged = transport.send, []

        def damage_first(data):
            if not damaged:
                damaged.append(data)
                data = data[:3] + bytes([data[3] ^ 0x40 or 1]) + data[4:]
            real_send(data)

        monkeypatch.setattr(transport, "send", damage_first)
        np.testing.assert_allclose(board.read(0, 0.1), CURRENTS, atol=1e-11)
        assert peer_board.garbage == 1

    def test_refusals_say_what_to_do(self, board, peer_board):
        board.safe()
        with pytest.raises(BoardError, match=r"reset\(\)") as error:
            board.pulse(0, ONE, 0.5, 1e-7)
        assert error.value.status == Status.INTERLOCK
        board.reset()
        board.pulse(0, ONE, 0.5, 1e-7)


class TestSafety:
    def test_safe_after_a_broken_session(self, board, peer_board):
        board._link.port.condemn("anything")
        board.safe()
        assert peer_board.latched

    def test_safe_after_a_closed_connection(self, board, peer_board):
        board._link.port.close()
        board.safe()
        assert peer_board.latched

    def test_safe_while_another_thread_waits(self, peer_board):
        board = FramedBoard("slow", peer_board.address, timeout=20)
        peer_board.faults[Opcode.READ] = [lose_reply] * 10
        failures = []

        def read():
            try:
                board.read(0, 0.1)
            except InstrumentError as error:
                failures.append(error)

        waiting = threading.Thread(target=read, daemon=True)
        waiting.start()
        time.sleep(0.1)
        started = time.monotonic()
        board._link.stop(patience=0.2)
        assert peer_board.latched and time.monotonic() - started < 5
        board.close()
        waiting.join(10)

    def test_safe_says_when_it_was_not_heard(self, board, peer_board):
        peer_board.stop()
        with pytest.raises(LinkError, match="by hand"):
            board.safe()

    def test_watchdog(self, board, peer_board):
        board.arm_watchdog(1.5)
        assert peer_board.frames[-1].payload == (1500).to_bytes(4, "little")

    def test_idle_modes(self, board, peer_board):
        for mode, number in (("float", 0), ("soft_ground", 1), ("hard_ground", 2)):
            board.idle(mode)
            assert peer_board.frames[-1].payload == bytes([number])


class TestCaps:
    @pytest.mark.parametrize(
        "wrong, field",
        [
            ({"rows": 65}, "rows"),
            ({"schemes": ["V/2", "V/3", "V/2"]}, "two bias schemes have the same name"),
            ({"protocol": 2}, "protocol"),
            ({"kernels": 3}, "kernel_block has 2 entries"),
            ({"dac_lsb": 0}, "dac_lsb"),
            ({"dac_lsb": 1e-9}, "codes beyond 32767"),
            ({"v_max": 1e300}, "codes beyond 32767"),
            ({"width_max": 1e300}, "width_max"),
            ({"width_min": 1.0}, "width_min"),
            ({"width_step": 1e-308}, "width_step"),
            ({"ranges": []}, "ranges"),
            ({"block": None, "topology": {"blocks": 1}}, "topology.block_rows"),
        ],
    )
    def test_an_impossible_board_is_refused_by_field(self, wrong, field):
        peer = ScriptedBoard(wrong)
        with pytest.raises(InstrumentError, match=field):
            FramedBoard("odd", peer.address, timeout=0.3)
        peer.stop()


class TestPassiveBoards:
    SCHEMES = ("V/2", "V/3")

    @pytest.fixture
    def passive(self):
        peer = ScriptedBoard({"cell": "1R", "schemes": self.SCHEMES})
        board = FramedBoard("passive", peer.address)
        yield board, peer
        board.close()
        peer.stop()

    def test_a_pulse_ends_with_the_number_of_its_scheme(self, passive):
        board, peer = passive
        assert board.capabilities().schemes == self.SCHEMES
        for number, scheme in enumerate(self.SCHEMES):
            board.pulse(0, ONE, 0.5, 100e-9, scheme=scheme)
            mask = np.packbits(ONE.ravel(), bitorder="little").tobytes()
            assert peer.frames[-1].payload[9:] == mask + bytes([number])

    @pytest.mark.parametrize("scheme", [None, "V/4", "v/2"])
    def test_nothing_is_sent_without_one_that_the_board_has(self, passive, scheme):
        board, peer = passive
        before = len(peer.frames)
        with pytest.raises(LimitError, match=r"one of V/2, V/3|the tester has V/2, V/3"):
            board.pulse(0, ONE, 0.5, 100e-9, scheme=scheme)
        with pytest.raises(LimitError, match=r"one of V/2, V/3|the tester has V/2, V/3"):
            board.pulse_and_read(0, ONE, 0.5, 100e-9, 0.1, scheme=scheme)
        assert len(peer.frames) == before

    def test_cells_with_gates_take_none(self, board, peer_board):
        before = len(peer_board.frames)
        with pytest.raises(LimitError, match="2T1R have gates and take none"):
            board.pulse(0, ONE, 0.5, 100e-9, scheme="V/2")
        assert len(peer_board.frames) == before


def test_a_batch_decodes_fast():
    peer = ScriptedBoard({"rows": 25, "columns": 25, "topology": CAPS["topology"] | {
        "block_rows": 25, "block_columns": 50, "kernel_column": [0, 25]}})  # fmt: skip
    board = FramedBoard("big", peer.address)
    codes = np.random.default_rng(1).integers(0, 4096, (1000, 25), dtype=np.uint16)
    reply = b"\0" + (1000).to_bytes(2, "little") + b"\x19" + codes.tobytes()
    encoded = encode(Frame(1, Opcode.MULTIPLY, reply, True))
    calibration, lines, times = board._calibration(0), np.arange(25), []
    for _ in range(20):
        started = time.perf_counter()
        payload = decode(encoded[:-1]).payload[1:]
        calibration.currents(board._vector_codes(payload, 1000, 25), lines)
        times.append(time.perf_counter() - started)
    board.close()
    peer.stop()
    assert min(times) < 2e-3


@pytest.mark.parametrize("status", [Status.WATCHDOG, Status.INTERLOCK])
def test_a_watchdog_that_has_bitten_has_nothing_to_disarm(board, peer_board, status):
    """So needles can be lifted off by a program that finds the board like that."""
    peer_board.refuse[Opcode.HEARTBEAT] = [status, status]
    assert board.arm_watchdog(0.0) is False
    with pytest.raises(BoardError, match=r"reset\(\)"):
        board.arm_watchdog(1.0)
