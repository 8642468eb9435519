"""A host's side of docs/board_protocol.md written from that page alone, without anything of the board's code."""

import json
import socket
import struct

import numpy as np
from cobs import cobs

OK, BAD_CRC, BAD_ARG, BUSY, OVER_RANGE, INTERLOCK, WATCHDOG, NOT_CALIBRATED, UNKNOWN, BAD_VERSION = range(10)


def crc16(data):
    """CRC-16-CCITT, bit by bit from its definition."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = ((crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def frame(seq, opcode, payload=b"", *, version=1, flags=0, length=None):
    body = struct.pack("<BBBBH", version, seq, opcode, flags, len(payload) if length is None else length) + payload
    return cobs.encode(body + struct.pack("<H", crc16(body))) + b"\0"


class BoardWire:
    def __init__(self, address):
        host, port = address.removeprefix("socket://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.received = b""
        self.seq = 0
        self.caps = json.loads(self.ok(0x02))
        self.lsb = self.caps["dac_lsb"]
        self.shape = self.caps["rows"], self.caps["columns"]

    def close(self):
        self.socket.close()

    def raw(self, data):
        self.socket.sendall(data)
        while b"\0" not in self.received:
            chunk = self.socket.recv(65536)
            if not chunk:
                raise ConnectionError("closed")
            self.received += chunk
        encoded, self.received = self.received.split(b"\0", 1)
        reply = cobs.decode(encoded)
        assert len(reply) < 2000 or reply[0] == 1
        body, (crc,) = reply[:-2], struct.unpack("<H", reply[-2:])
        if len(body) < 3000:  # the bitwise checksum of a long reply takes too long
            assert crc16(body) == crc
        version, seq, opcode, flags, length = struct.unpack_from("<BBBBH", body)
        assert (version, flags) == (1, 1)
        assert length == len(body) - 6
        return seq, opcode, body[6], body[7:]

    def ask(self, opcode, payload=b""):
        self.seq = self.seq % 255 + 1
        seq, replied, status, rest = self.raw(frame(self.seq, opcode, payload))
        assert (seq, replied) == (self.seq, opcode)
        return status, rest

    def ok(self, opcode, payload=b""):
        status, rest = self.ask(opcode, payload)
        assert status == OK, rest
        return rest

    def code(self, volts):
        return round(volts / self.lsb)

    def mask(self, mask):
        mask = np.ones(self.shape, dtype=bool) if mask is None else mask
        data = bytearray((mask.size + 7) // 8)
        for bit in np.flatnonzero(mask.ravel()):
            data[bit // 8] |= 1 << (bit % 8)
        return bytes(data)

    def calibration(self, current_range):
        rest = self.ok(0x03, bytes([current_range]))
        (n,) = struct.unpack_from("<H", rest, 16)
        values = np.frombuffer(rest[18:], dtype="<f4")
        assert values.size == 2 * n
        return values[:n].astype(float), values[n:].astype(float)

    def read_codes(self, kernel, volts, mask=None, current_range=0, averages=1):
        rest = self.ok(0x11, struct.pack("<BBHh", kernel, current_range, averages, self.code(volts)) + self.mask(mask))
        return np.frombuffer(rest[2:], dtype="<f4").astype(float)

    def read(self, kernel, volts, current_range=0, averages=1):
        """Currents of a whole kernel [rows, columns]."""
        gain, offset = self.calibration(current_range)
        codes = self.read_codes(kernel, volts, None, current_range, averages).reshape(self.shape)
        return gain[: self.shape[0], None] * (codes - offset[: self.shape[0], None])

    def pulse_payload(self, kernel, volts, width, mask=None, count=1):
        return struct.pack("<BhIH", kernel, self.code(volts), round(width * 1e9), count) + self.mask(mask)

    def pulse(self, kernel, volts, width, mask=None, count=1):
        self.ok(0x12, self.pulse_payload(kernel, volts, width, mask, count))

    def load(self, bank, volts, start=0):
        codes = np.rint(np.asarray(volts) / self.lsb).astype("<i2")
        self.ok(0x10, struct.pack("<BHHB", bank, start, *codes.shape) + codes.tobytes())
        return codes * self.lsb

    def multiply_payload(self, kernel, direction, count, driven, sensed, *, range_=2, averages=1, bank=0, start=0):
        return struct.pack("<BBBHBHHII", kernel, direction, range_, averages, bank, start, count, driven, sensed)

    def multiply_codes(self, *args, **kwargs):
        rest = self.ok(0x14, self.multiply_payload(*args, **kwargs))
        count, n = struct.unpack_from("<HB", rest)
        return np.frombuffer(rest[3:], dtype="<u2").reshape(count, n).astype(float)
