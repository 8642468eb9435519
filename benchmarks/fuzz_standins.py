"""Do simulated instruments survive whatever is sent to them? Random bytes and lines that are grammatical but odd.

    python benchmarks/fuzz_standins.py --bytes 2000000 --lines 100000

Every stand-in gets random bytes, then odd lines (the board: frames with a right checksum and any content, every fifth
of them damaged), in pieces of any size. After every `CHECK` lines or pieces the next client comes and asks who is
there; at the end some of it is said again over real sockets. Counted: answers to that question, exceptions that came
out of a stand-in, lines that a handler had not foreseen (they cost an error in the queue), the most processor
time that one piece took, and (`--memory`) how much the memory grew. Seeds are printed.
"""

from __future__ import annotations

import argparse
import logging
import random
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from sim_backends.station import Station, StationConfig
from sim_backends.virtual.kepco import KepcoSpec
from sim_backends.virtual.rack import RackStationSpec
from sim_backends.wire import frames
from sim_backends.wire.frames import Opcode

CHECK = 500


def _words(text: str) -> list[str]:
    return text.split()


_NUMBERS = (
    *_words("0 1 -1 0.5 1e-9 1E400 -1e-400 nan inf INF MIN MAX 1_0 #HFF #15AB;CD #0AB;CD #9999999999"),
    *_words("1,2,3 ١ '1' true nil"),
    "", '"', "9" * 300, "0x" + "f" * 300,
)  # fmt: skip
_TEXTS = (
    *_words("'a;b' 'it''s' 'open '1A01' 'allslots' '1C01,2D01' 'slot1' [[x]] --x"),
    '"OUTP1 ON"', '"1A01:1A12"', "'" + "x" * 300 + "'", "'\\\\'", "'\x80\xff'",
)  # fmt: skip
_SCPI = _words("""
    *IDN? *RST *CLS *ESR? *ESE *SRE *STB? *OPC *OPC? *WAI *TRG ABOR SYST:ERR? OUTP1 OUTP2 OUTP OUTP? OUTP:SYNC
    OUTP1:LOAD OUTP1:POL SOUR1:VOLT SOUR2:VOLT:HIGH SOUR1:VOLT:LOW SOUR1:VOLT:OFFS SOUR1:FUNC SOUR2:FUNC SOUR1:FREQ
    SOUR1:FUNC:PULS:WIDT SOUR2:FUNC:PULS:WIDT SOUR1:FUNC:PULS:PER SOUR1:BURS:NCYC SOUR1:BURS:STAT SOUR2:BURS:STAT
    TRIG1:SOUR TRIG2:SOUR TRIG1:DEL DISP:TEXT DISP:TEXT? CURR VOLT CURR:LIM CURR:LIM? FUNC:MODE MEAS:CURR? MEAS:VOLT?
    BOGUS:HEADER : :: *""")
_SCPI_WORDS = _words("ON OFF 1 0 PULS DC SIN BUS EXT IMM INV NORM CURR VOLT")
_TSP = _words("""
    smua.source.levelv smub.source.levelv smua.source.leveli smua.source.limiti smua.source.output smub.source.output
    smua.source.func smua.measure.rangei smua.measure.nplc smua.measure.filter.count smua.measure.filter.enable
    format.asciiprecision display.screen channel.connectrule x y smua.bogus localnode.model slot[1].idn errorqueue.count
    status.standard.event""")
_TSP_CALLS = _words("""
    print smua.measure.i smub.measure.iv smua.measure.r smua.reset reset errorqueue.next errorqueue.clear channel.close
    channel.open channel.exclusiveclose channel.getclose channel.getstate display.settext display.gettext tonumber delay
    bogus smua.source.levelv""")
_SANE = {  # so that what is odd comes to instruments that are at work
    "pulser": (
        "OUTP1 1;:OUTP2 1;:SOUR1:FUNC PULS;:SOUR1:BURS:NCYC 2;:TRIG1:SOUR BUS;:SOUR1:BURS:STAT 1;*TRG",
        "SOUR2:FUNC PULS;:SOUR2:FUNC:PULS:WIDT 2E-4;:SOUR2:BURS:NCYC INF;:TRIG2:SOUR BUS;:SOUR2:BURS:STAT 1;*TRG",
        "SOUR1:BURS:NCYC 1E6;*TRG", "ABOR", "*RST",
    ),
    "magnet": ("FUNC:MODE CURR;:VOLT 10;:CURR 1;:OUTP 1", "OUTP 0;MEAS:CURR?"),
    "smu": ("smua.source.output=1 smub.source.output=1 smua.source.levelv=0.1 x=smub.measure.i()", "reset()"),
    "matrix": ("channel.exclusiveclose('1A01,2B01')", "channel.exclusiveclose('1C01,2D01')"),
}  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How a stand-in is spoken to: a line that is odd, what asks who is there, what the answer holds, sane lines."""

    odd: Callable[[random.Random], bytes]
    hello: bytes
    answer: bytes
    sane: tuple[str, ...] = ()


def _scpi_line(rng: random.Random) -> bytes:
    units = []
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        header = rng.choice(_SCPI) + ("?" if rng.random() < 0.15 else "")
        parameters = [rng.choice(rng.choice((_NUMBERS, _TEXTS, _SCPI_WORDS, _SCPI_WORDS)))
                      for _ in range(rng.choice((0, 1, 1, 1, 2, 9)))]  # fmt: skip
        units.append(header + (rng.choice((" ", "\t", "  ")) + ",".join(parameters) if parameters else ""))
    return (rng.choice(("", ":", " ")) + rng.choice((";", ";:", " ; ")).join(units)).encode("utf-8", "replace") + b"\n"


def _tsp_expression(rng: random.Random, depth: int = 0) -> str:
    kind = rng.random()
    if depth > 6 or kind < 0.35:
        return rng.choice(_NUMBERS)
    if kind < 0.5:
        return rng.choice(_TEXTS)
    if kind < 0.65:
        return rng.choice(_TSP)
    if kind < 0.8:
        return _tsp_call(rng, depth + 1)
    inner = _tsp_expression(rng, depth + 1)
    return rng.choice((f"({inner})", f"-{inner}", f"{inner}{rng.choice('+-*/')}{_tsp_expression(rng, depth + 1)}"))


def _tsp_call(rng: random.Random, depth: int = 0) -> str:
    arguments = [_tsp_expression(rng, depth + 1) for _ in range(rng.choice((0, 1, 1, 2)))]
    return f"{rng.choice(_TSP_CALLS)}({', '.join(arguments)})"


def _tsp_line(rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        return rng.choice((b"loadscript x\nprint(1)\nendscript\n", b"*ESR?\n", b"*STB?\n", b"*ESE 5\n", b"*BOGUS\n",
                           b"print(" + b"(" * 900 + b"\n", b"x=" + b"1+" * 900 + b"1\n"))  # fmt: skip
    statements = [
        _tsp_call(rng) if rng.random() < 0.5 else f"{rng.choice(_TSP)}={_tsp_expression(rng)}"
        for _ in range(rng.choice((1, 1, 2, 6)))
    ]
    return rng.choice((" ", ";", "; ")).join(statements).encode("utf-8", "replace") + b"\n"


def _sentio_line(words: list[str]) -> Callable[[random.Random], bytes]:
    letters = ("z", "s", "h", "c", "r", "Wafer", "prober", "True", "false", "Pass", "#FF000000", "n", "a", "ul", "wr",
               "BackToContact", "Selected", "0-255", "0-99999999999", "1-2-3", "unbinned", "x" * 300)  # fmt: skip

    def line(rng: random.Random) -> bytes:
        word = rng.choice(words)
        if rng.random() < 0.15:
            group, colon, name = word.rpartition(":")
            word = f"{group}{colon}start_{name}"
        kinds = (_NUMBERS, ("0", "1", "2", "3", "-1", "15"), letters)
        arguments = [rng.choice(rng.choice(kinds)) for _ in range(rng.choice((0, 1, 2, 3, 3, 5)))]
        return f"{word} {','.join(arguments)}\n".encode()

    return line


def _frame(rng: random.Random) -> bytes:
    opcode = rng.choice((*Opcode, 0, 99, 255))
    payload = rng.randbytes(rng.choice((0, 1, 2, 4, 7, 16, 40, 85, 90, 95, 200)))
    if rng.random() < 0.7 and len(payload) > 8:  # small arguments, so that some are within limits
        payload = bytes(rng.choice((0, 0, 1, 2, 100)) for _ in range(8)) + payload[8:]
    encoded = frames.encode(
        frames.Frame(rng.choice((1, 1, 1, 2)), rng.randrange(256), opcode, rng.choice((0, 0, 1)), payload)
    )
    if rng.random() < 0.2:
        at = rng.randrange(len(encoded))
        encoded = encoded[:at] + bytes([encoded[at] ^ 1 << rng.randrange(8)]) + encoded[at + 1 :]
    return encoded


def dialects(station: Station) -> dict[str, tuple[object, Dialect]]:
    """The stand-ins of a station, and how each is spoken to."""
    found: dict[str, tuple[object, Dialect]] = {}
    for served in station._instruments:
        name, service = served.name, served.service
        if name == "prober":
            how = Dialect(_sentio_line(sorted(service._handlers)), b"*IDN?\n", b"MPI Corporation")
        elif name == "board":
            idn = frames.encode(frames.Frame(frames.VERSION, 9, Opcode.IDN, 0, b""))
            how = Dialect(_frame, idn, station.config.board.identity.encode())
        elif name in ("pulser", "magnet"):
            how = Dialect(_scpi_line, b"*IDN?\n", b",SIM000", _SANE[name])
        else:
            how = Dialect(_tsp_line, b"*IDN?\n", b"SIM000", _SANE[name])
        found[name] = service, how
    return found


def random_pieces(rng: random.Random, size: int) -> Iterator[bytes]:
    """So many random bytes, in pieces of any length; every fourth piece of the signs that mean something."""
    while size > 0:
        length = min(size, rng.choice((1, 7, 100, 1000, 5000)))
        signs = rng.random() < 0.25
        yield bytes(rng.choices(b"()\"'#;:,*?=[]-+\n 019aAeEx.\x00\xff", k=length)) if signs else rng.randbytes(length)
        size -= length


class Unforeseen(logging.Handler):
    """Counts what stand-ins say that they had not foreseen, and keeps the first of it."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.first = 0, ""

    def emit(self, record: logging.LogRecord) -> None:
        """Count."""
        self.count += 1
        self.first = self.first or f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"


@dataclass
class Outcome:
    """What became of a stand-in: how often it answered of how often it was asked, and what went wrong."""

    pieces: int = 0
    size: int = 0
    asked: int = 0
    answered: int = 0
    raised: int = 0
    longest: float = 0.0
    first: str = ""

    def say(self, service: object, data: bytes) -> None:
        """Send a piece."""
        began = time.process_time()
        try:
            service.receive(data)
        except Exception as error:
            self.raised += 1
            self.first = self.first or f"{error!r} after {data[:200]!r}"
        self.longest = max(self.longest, time.process_time() - began)
        self.pieces += 1
        self.size += len(data)

    def ask(self, service: object, how: Dialect) -> None:
        """Have the next client ask who is there."""
        self.asked += 1
        service.connected()
        self.answered += how.answer in service.receive(how.hello)


def fuzz(service: object, how: Dialect, rng: random.Random, size: int, lines: int) -> Outcome:
    """Say random bytes, then odd lines, some of them in two pieces."""
    outcome = Outcome()
    for number, piece in enumerate(random_pieces(rng, size), 1):
        outcome.say(service, piece)
        if number % CHECK == 0:
            outcome.ask(service, how)
    outcome.ask(service, how)
    for number in range(1, lines + 1):
        sane = how.sane and rng.random() < 0.02
        line = rng.choice(how.sane).encode() + b"\n" if sane else how.odd(rng)
        cut = rng.randrange(len(line)) if rng.random() < 0.1 else 0
        for piece in filter(None, (line[:cut], line[cut:])):
            outcome.say(service, piece)
        if number % CHECK == 0:
            outcome.ask(service, how)
    outcome.ask(service, how)
    return outcome


def over_sockets(station: Station, rng: random.Random, size: int, lines: int) -> dict[str, bool]:
    """Say some of it over real sockets; whether each stand-in answers the next client.

    Every third client leaves without reading its answers, the others read them to the end.
    """
    found = {}
    for name, (_, how) in dialects(station).items():
        address = station._servers[name].address
        for number, piece in enumerate((*random_pieces(rng, size), *(how.odd(rng) for _ in range(lines)))):
            with socket.create_connection(address, 120) as client, suppress(ConnectionError):
                client.sendall(piece)
                if number % 3:
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 16):
                        pass
        found[name] = _answers(address, how)
    return found


def _answers(address: tuple[str, int], how: Dialect) -> bool:
    """Whether a new client is served; the last one may still be, so it asks for a while."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(address, 30) as client:
                client.settimeout(30)
                client.sendall(how.hello)
                if how.answer in client.recv(1 << 16):
                    return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def stations() -> list[StationConfig]:
    """A station with a board and one with a rack and a magnet: every stand-in there is."""
    passive = StationConfig(lot="tio2-8x8", seed=1, dies=2, rack=RackStationSpec(), magnet=KepcoSpec())
    return [StationConfig(seed=1, dies=2), passive]


def main() -> None:
    """Fuzz all stand-ins and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=2_000_000, help="random bytes for each stand-in")
    parser.add_argument("--lines", type=int, default=100_000, help="odd lines for each stand-in")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="also measure how much the memory grows; takes longer")
    options = parser.parse_args()
    unforeseen = Unforeseen()
    logging.getLogger("sim_backends").addHandler(unforeseen)
    logging.getLogger("sim_backends").propagate = False
    print(f"seed {options.seed}: {options.bytes:,} random bytes and {options.lines:,} odd lines for each")
    print("station stand-in  pieces     bytes answered  raised unforeseen longest/s  growth/MB  time/s")
    for config in stations():
        station = Station(config)
        station.bench.move_to(0)
        station.bench.touch()
        for name, (service, how) in dialects(station).items():
            unforeseen.count, began = 0, time.perf_counter()
            if options.memory:
                tracemalloc.start()
            outcome = fuzz(service, how, random.Random(f"{options.seed} {name}"), options.bytes, options.lines)
            growth = tracemalloc.get_traced_memory()[0] / 1e6 if options.memory else float("nan")
            tracemalloc.stop()
            print(f"{config.lot:9}{name:8}{outcome.pieces:8}{outcome.size:10}{outcome.answered:5}/{outcome.asked:4}"
                  f"{outcome.raised:7}{unforeseen.count:11}{outcome.longest:10.2f}{growth:11.1f}"
                  f"{time.perf_counter() - began:8.0f}  {outcome.first} {unforeseen.first}", flush=True)  # fmt: skip
        with station:
            told = over_sockets(
                station, random.Random(options.seed), min(options.bytes, 200_000), min(options.lines, 500)
            )
        print(f"{config.lot:9}over sockets, then asked by a new client: {told}", flush=True)


if __name__ == "__main__":
    main()
