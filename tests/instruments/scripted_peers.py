"""Scripted wire peers on loopback: they answer what a test tells them to, and count what they were asked."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from instruments.board_protocol.frames import Frame, Opcode, Status, decode, encode

GAIN = 1e-4 / 2000
OFFSET = 2048.0

CAPS = {
    "protocol": 1,
    "rows": 3,
    "columns": 4,
    "kernels": 2,
    "topology": {
        "blocks": 1,
        "block_rows": 3,
        "block_columns": 8,
        "kernel_block": [0, 0],
        "kernel_row": [0, 0],
        "kernel_column": [0, 4],
    },
    "dac_lsb": 1.25 / 1024,
    "v_min": -1.65,
    "v_max": 1.65,
    "v_read_max": 0.3,
    "adc_bits": 12,
    "ranges": [{"index": 0, "full_scale": 1e-4}, {"index": 1, "full_scale": 1e-5}],
    "width_min": 20e-9,
    "width_max": 1e-3,
    "width_step": 10e-9,
    "count_max": 1000,
    "averages_max": 256,
    "banks": 16,
    "vectors_max": 65535,
    "cell": "2T1R",
    "heartbeat": True,
}

Fault = Callable[["ScriptedBoard", socket.socket, Frame, bytes], bool]
"""Called instead of sending a reply: board, connection, request, encoded reply. True: the connection is dropped."""


class Peer:
    """Accepts one client after another on a free port and hands its messages, cut at `end`, to `message`."""

    end = b"\n"

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.clients = 0
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def message(self, connection: socket.socket, data: bytes) -> bool:
        """Answer a message; True drops the connection."""
        raise NotImplementedError

    def stop(self) -> None:
        for each in [self.listener, *self._connections]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.clients += 1
            self._connections.append(connection)
            self._attend(connection)

    def _attend(self, connection: socket.socket) -> None:
        received = b""
        with connection:
            while True:
                try:
                    data = connection.recv(1 << 17)
                    if not data:
                        return
                    *messages, received = (received + data).split(self.end)
                    for each in messages:
                        if self.message(connection, each):
                            connection.shutdown(socket.SHUT_RDWR)
                            return
                except OSError:
                    return


class ScriptedBoard(Peer):
    """A board without physics: cell (row, column) carries `row + 0.1 * column` uA; multiplications echo vectors.

    `faults` maps an opcode to a list of faults, used up one per request of that opcode, after the request was done.
    """

    end = b"\0"

    def __init__(self, caps: dict | None = None) -> None:
        self.caps = CAPS | (caps or {})
        self.identity = "lab,scripted,007,1.0"
        self.frames: list[Frame] = []
        self.garbage = 0
        self.faults: dict[int, list[Fault]] = {}
        self.refuse: dict[int, list[Status]] = {}
        self.banks: dict[int, np.ndarray] = {}
        self.saturate = False
        self.actions = 0
        self.last = (0, 0)
        self.latched = False
        super().__init__()

    @property
    def address(self) -> str:
        return f"socket://127.0.0.1:{self.port}"

    def count(self, opcode: Opcode) -> int:
        """How many requests of this opcode came."""
        return sum(frame.opcode == opcode for frame in list(self.frames))

    def message(self, connection: socket.socket, data: bytes) -> bool:
        try:
            request = decode(data)
        except ValueError:
            self.garbage += 1
            connection.sendall(encode(Frame(0, 0, bytes([Status.BAD_CRC]) + b"damaged", True)))
            return False
        self.frames.append(request)
        status, body = self.do(request)
        reply = encode(Frame(request.seq, request.opcode, bytes([status]) + body, True))
        if self.faults.get(request.opcode):
            return self.faults[request.opcode].pop(0)(self, connection, request, reply)
        connection.sendall(reply)
        return False

    def do(self, request: Frame) -> tuple[Status, bytes]:
        if self.refuse.get(request.opcode):
            return self.refuse[request.opcode].pop(0), b"as told"
        if self.latched and request.opcode in (Opcode.PULSE, Opcode.PULSE_READ, Opcode.READ):
            return Status.INTERLOCK, b"latched"
        answer = getattr(self, f"do_{Opcode(request.opcode).name.lower()}", None)
        return Status.OK, b"" if answer is None else answer(request)

    def do_idn(self, request: Frame) -> bytes:
        return self.identity.encode()

    def do_caps(self, request: Frame) -> bytes:
        return json.dumps(self.caps).encode()

    def do_cal_read(self, request: Frame) -> bytes:
        lines = max(self.caps["rows"], self.caps["columns"])
        gain = np.full(lines, GAIN / 10 ** request.payload[0], "<f4")
        head = f"cal-{request.payload[0]}".encode().ljust(16, b"\0") + struct.pack("<H", lines)
        return head + gain.tobytes() + np.full(lines, OFFSET, "<f4").tobytes()

    def do_estop(self, request: Frame) -> bytes:
        self.latched = True
        return b""

    def do_reset(self, request: Frame) -> bytes:
        self.latched = False
        return b""

    def do_last_action(self, request: Frame) -> bytes:
        return struct.pack("<BBI", *self.last, self.actions)

    def do_read(self, request: Frame) -> bytes:
        return self._codes(request.payload[6:])

    def do_pulse(self, request: Frame) -> bytes:
        self.actions += 1
        self.last = (request.seq, request.opcode)
        return b""

    def do_pulse_read(self, request: Frame) -> bytes:
        self.do_pulse(request)
        return self._codes(request.payload[14:])

    def do_load_vectors(self, request: Frame) -> bytes:
        bank, start, count, lines = struct.unpack_from("<BHHB", request.payload)
        vectors = np.frombuffer(request.payload, "<i2", offset=6).reshape(count, lines)
        kept = self.banks.get(bank) if start else np.empty((0, lines), "<i2")
        assert kept is not None and len(kept) == start
        self.banks[bank] = np.concatenate([kept, vectors])
        return b""

    def do_multiply(self, request: Frame) -> bytes:
        _, _, _, _, bank, start, count, driven, sensed = struct.unpack("<BBBHBHHII", request.payload)
        vectors = self.banks[bank][start : start + count]
        assert vectors.shape[1] == driven.bit_count()
        codes = np.repeat(vectors[:, :1] + int(OFFSET), sensed.bit_count(), axis=1).astype("<u2")
        return struct.pack("<HB", count, sensed.bit_count()) + codes.tobytes()

    def _codes(self, mask: bytes) -> bytes:
        rows, columns = self.caps["rows"], self.caps["columns"]
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        assert len(bits) == 8 * -(-rows * columns // 8) and not bits[rows * columns :].any()
        row, column = np.nonzero(bits[: rows * columns].reshape(rows, columns))
        codes = (OFFSET + (row + 0.1 * column) * 1e-6 / GAIN).astype("<f4")
        if self.saturate:
            codes[0], codes[1] = 0, 2**12 - 1
        return struct.pack("<H", len(codes)) + codes.tobytes()


def lose_reply(board, connection, request, reply) -> bool:
    """The reply never comes."""
    return False


def damage_reply(board, connection, request, reply) -> bool:
    """One bit of the reply flips."""
    damaged = bytearray(reply)
    damaged[len(reply) // 2] ^= 0x10
    connection.sendall(bytes(damaged))
    return False


def disconnect(board, connection, request, reply) -> bool:
    """The connection breaks in place of the reply."""
    return True


def send_twice(board, connection, request, reply) -> bool:
    """The reply comes twice."""
    connection.sendall(reply + reply)
    return False


def delay(seconds: float) -> Fault:
    """The reply comes late."""

    def late(board, connection, request, reply) -> bool:
        time.sleep(seconds)
        connection.sendall(reply)
        return False

    return late


def not_fired(board, connection, request, reply) -> bool:
    """Reply lost, and the pulse too: the board never executed it."""
    board.actions -= 1
    board.last = (0, 0)
    return False


def restarted(board, connection, request, reply) -> bool:
    """Reply lost, and the board started anew since."""
    board.actions = 77
    board.last = (1, Opcode.PULSE)
    return False


class ScriptedSentio(Peer):
    """A prober of text: a route, a z axis, and `script` entries that override single commands once."""

    def __init__(self, dies: int = 3) -> None:
        self.route = [(column, 0) for column in range(dies)]
        self.at = -1
        self.z = 15700.0
        self.version = "25.2.3"
        self.lines: list[str] = []
        self.script: dict[str, list[Callable[[socket.socket], None] | str]] = {}
        self.stuck = False
        super().__init__()

    @property
    def address(self) -> str:
        return f"TCPIP::127.0.0.1::{self.port}::SOCKET"

    def count(self, command: str) -> int:
        return sum(line.split(" ")[0] == command for line in list(self.lines))

    def message(self, connection: socket.socket, data: bytes) -> bool:
        line = data.decode()
        self.lines.append(line)
        command, _, arguments = line.partition(" ")
        told = self.script.get(command)
        answer = told.pop(0) if told else self.answer(command, [each.strip() for each in arguments.split(",")])
        if callable(answer):
            answer(connection)
        elif answer is not None:
            connection.sendall((answer + "\n").encode())
        return False

    def answer(self, command: str, arguments: list[str]) -> str | None:
        match command:
            case "*RCS":
                return None
            case "status:get_version":
                return f"0,0,Version: {self.version}"
            case "status:get_chuck_temp":
                return "0,0,25.40"
            case "get_chuck_site_heights":
                return "0,0,16000.0,300.0,50.0,100.0"
            case "get_chuck_z":
                return f"0,0,{self.z}"
            case "move_chuck_contact":
                self.z = 16000.0
                return f"0,0,{self.z}"
            case "move_chuck_separation":
                self.z = 15700.0
                return f"0,0,{self.z}"
            case "chuck:move_z":  # this and the next are asked by what makes a station safe
                self.z = 15700.0
                return f"0,0,{self.z}"
            case "chuck:get_z":
                return f"0,0,{self.z - 15700.0},Separation"
            case "map:get_num_dies":
                return f"0,0,{len(self.route)}"
            case "map:path:get_die":
                return "0,0,{},{}".format(*self.route[int(arguments[0])])
            case "map:die:get_current_index":
                column, row = self.route[self.at] if self.at >= 0 else (0, 0)
                return f"0,0,{self.at},{column},{row}"
            case "map:step_first_die":
                return self.go(0)
            case "map:step_next_die":
                return self.go(self.at + 1) if self.at + 1 < len(self.route) else "11,0,End of route"
            case "map:step_die":
                return self.go(self.route.index((int(arguments[0]), int(arguments[1]))))
            case "map:bins:set_bin" | "stop_chuck_xyz":
                return "0,0,"
        return "4,0,Unknown command"

    def go(self, index: int) -> str:
        column, row = self.route[index]
        if not self.stuck:
            self.at = index
        flag = 1024 if index == len(self.route) - 1 else 0
        return f"{flag},0,{column},{row},0"
