"""What do drivers make of damaged replies? Every reply of a simulated instrument may be damaged on its way.

    python benchmarks/damaged_replies.py --calls 20000

Drivers talk to stand-ins in this process. A share of the replies gets a wrong bit, letter, number or length, is cut,
doubled, emptied or replaced. Counted for each driver: calls, damaged replies, calls that ended in an error of ours
(`instruments.roles.interfaces.InstrumentError`), and FOREIGN exceptions, of which there must be none. One share of the
drivers is made anew while replies are damaged: connecting reads, too. The board's frames are damaged before their
checksum is made, as a faulty firmware would, and after it, as a wire would. Waiting costs no time here. Seeds are
printed.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import numpy as np
from qcodes.instrument import Instrument

from instruments.drivers.board import FramedBoard
from instruments.drivers.keithley_707 import Keithley707
from instruments.drivers.keithley_2600 import Keithley2602BSmu
from instruments.drivers.kepco import KepcoMagnet
from instruments.drivers.keysight_33500 import Keysight33512BPulser
from instruments.drivers.sentio import Sentio
from instruments.roles.interfaces import DieSite, InstrumentError
from instruments.wire.sessions import through
from sim_backends.station import Station, StationConfig
from sim_backends.virtual.kepco import KepcoSpec
from sim_backends.virtual.rack import RackStationSpec
from sim_backends.wire import frames

SHARE = 0.15
"""Of the replies that are damaged."""
ANEW = 0.01
"""Of the calls before which the driver is made anew."""

_SET_UP_FIRST = ("fastsweep", "timetrace")  # parameters of QCoDeS that refuse until they are set up
_ODD = (
    b"", b"nan", b"inf", b"1e400", b"-", b"9" * 400, b"1_0", b"\xff\xfe", b"0x10", b"nil", b"true", b"TSP>", b",,,",
    b"\t", b";;", b'"', b"+0,", b"1e5000", b"\xd9\xa1", b"-1", b"1e300", b"0.5", b"\0", b" ",
)  # fmt: skip


def damaged(reply: bytes, rng: random.Random) -> bytes:
    """A reply with something wrong in it; its end is kept, so that it is one."""
    if not reply:
        return reply
    at = rng.randrange(len(reply))
    fields = [each for sign in (b",", b"\t", b";") for each in reply.split(sign) if each != reply]
    field = rng.choice(fields or [reply])
    return rng.choice((
        lambda: reply[:at] + bytes([reply[at] ^ 1 << rng.randrange(8)]) + reply[at + 1 :],
        lambda: reply[:at] + bytes([rng.randrange(32, 127)]) + reply[at + 1 :],
        lambda: reply[:at] + reply[at + 1 :],
        lambda: reply[:at],
        lambda: reply[:at] + rng.choice(_ODD) + reply[at:],
        lambda: reply.replace(field, rng.choice(_ODD), 1),
        lambda: reply.replace(field, rng.choice(_ODD)),
        lambda: rng.choice(_ODD),
        lambda: reply + reply,
    ))()  # fmt: skip


def damaged_frame(reply: bytes, rng: random.Random) -> bytes:
    """A frame whose payload is damaged but whose checksum is right."""
    try:
        frame = frames.decode(reply)
    except frames.DamagedFrameError:
        return reply
    status, payload = frame.payload[:1], frame.payload[1:]
    wrong = rng.choice((
        lambda: status + damaged(payload, rng),
        lambda: status + rng.randbytes(len(payload)),
        lambda: status + payload[: len(payload) // 2],
        lambda: bytes([rng.randrange(256)]) + payload,
        lambda: b"",
    ))()  # fmt: skip
    return frames.encode(frames.Frame(frame.version, frame.seq, frame.opcode, frame.flags, wrong)).removesuffix(b"\0")


class DamagingWire:
    """A stand-in at the end of a wire that damages replies; fills `instruments.wire.sessions.HeldTransport`."""

    def __init__(self, service: Any, rng: random.Random, share: float) -> None:
        self._service, self._rng, self.share = service, rng, share
        self._received = bytearray()
        self.damaged = 0

    def open(self) -> None:
        """Connect; the last connection is forgotten."""
        self._received.clear()
        self._service.connected()

    def close(self) -> None:
        """Nothing is left to close."""

    def send(self, data: bytes) -> None:
        """Hand over, damage what comes back."""
        end = self._service.end if hasattr(self._service, "end") else b"\n"
        for reply in self._service.receive(data).split(end)[:-1]:
            if self._rng.random() < self.share:
                self.damaged += 1
                framed = end == b"\0" and self._rng.random() < 0.5
                reply = (damaged_frame if framed else damaged)(reply, self._rng)
            self._received += reply + end

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The next reply; if there is none, there never will be."""
        at = self._received.find(terminator)
        if at < 0:
            raise TimeoutError(f"nothing came in {timeout:g} s")
        message = bytes(self._received[:at])
        del self._received[: at + len(terminator)]
        return message

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """Send and receive."""
        self.send(data)
        return self.receive(terminator, timeout)

    def interrupt(self, data: bytes) -> None:
        """Send out of turn."""
        self.send(data)

    def abandon(self, reason: str | None) -> None:
        """Nobody waits here."""

    def register(self, off: object) -> None:
        """Nobody else holds the connection."""

    def keep_alive(self, message: object) -> None:
        """Nobody else holds the connection."""


class DamagingBroker:
    """Holds the wires to stand-ins; addresses are their names."""

    def __init__(self, services: dict[str, Any], rng: random.Random, share: float) -> None:
        self.wires = {name: DamagingWire(service, rng, share) for name, service in services.items()}

    def transport(self, kind: str, address: str, settings: dict[str, Any]) -> DamagingWire:
        """The wire to a stand-in."""
        return self.wires[address]


Make, Call = Callable[[], Instrument], Callable[[Any, random.Random], object]


def _parameter(driver: Any, rng: random.Random) -> object:
    modules = [driver, *driver.submodules.values()]
    every = [each for module in modules for each in module.parameters.values() if hasattr(each, "get")]
    return rng.choice([each for each in every if each.name not in _SET_UP_FIRST]).get()


def _mask(rng: random.Random, shape: tuple[int, int]) -> Any:
    return np.random.default_rng(rng.randrange(2**32)).random(shape) < 0.2


DRIVERS: dict[str, tuple[Make, tuple[Call, ...]]] = {
    "smu": (
        lambda: Keithley2602BSmu("smu", "smu"),
        (
            lambda d, r: d.switch_on(r.choice("ab"), 1e-3),
            lambda d, r: d.compliance(r.choice("ab")),
            lambda d, r: d.read_current("b", "a", 0.1, full_scale=1e-4, averages=r.choice((1, 3))),
            lambda d, r: d.hold_voltage("a", 0.1, "b"),
            lambda d, r: d.switch_off(),
            lambda d, r: d.safe(),
            _parameter,
        ),
    ),
    "matrix": (
        lambda: Keithley707("matrix", "matrix", outputs={"A": "smu a", "B": "smu b", "H": "ground"}),
        (
            lambda d, r: d.route(r.choice((["1A01", "2B01"], ["1H01"], []))),
            lambda d, r: d.closed(),
            lambda d, r: d.safe(),
            lambda d, r: d.get_idn(),
        ),
    ),
    "pulser": (
        lambda: Keysight33512BPulser("pulser", "pulser"),
        (
            lambda d, r: d.arm({1: r.choice((0.5, 0.6, -0.5))}, 1e-6),
            lambda d, r: d.fire(f"m{r.randrange(10**9)}"),
            lambda d, r: d.hold({1: 0.1, 2: -0.1}),
            lambda d, r: d.last_mark(),
            lambda d, r: d.switch_off(),
            lambda d, r: d.safe(),
            _parameter,
        ),
    ),
    "magnet": (
        lambda: KepcoMagnet(
            "magnet", "magnet", tesla_per_ampere=0.05, current_limit=5.0, ramp_rate=10.0, settling=1e-3
        ),
        (
            lambda d, r: d.set_field(r.choice((0.0, 0.01, -0.01))),
            lambda d, r: d.field(),
            lambda d, r: d.settled(),
            lambda d, r: d.ramp_down(),
            lambda d, r: d.safe(),
            _parameter,
        ),
    ),
    "prober": (
        lambda: Sentio("prober", "prober", overtravel_max=50e-6),
        (
            lambda d, r: d.die_sites(),
            lambda d, r: d.first_die(),
            lambda d, r: d.next_die(),
            lambda d, r: d.goto_die(DieSite(r.randrange(4), r.randrange(4))),
            lambda d, r: d.where(),
            lambda d, r: d.set_bin(DieSite(2, 2), 1),
            lambda d, r: d.contact(r.choice((0.0, 20e-6))),
            lambda d, r: d.separate(),
            lambda d, r: d.z_state(),
            lambda d, r: d.check_interlocks(),
            lambda d, r: d.stop(),
            _parameter,
        ),
    ),
    "board": (
        lambda: FramedBoard("board", "board", pulse_limit=1.0),
        (
            lambda d, r: d.read(0, 0.1, mask=_mask(r, (d.capabilities().rows, d.capabilities().columns))),
            lambda d, r: d.pulse(0, _mask(r, (d.capabilities().rows, d.capabilities().columns)), 0.5, 1e-7),
            lambda d, r: d.pulse_and_read(
                0, _mask(r, (d.capabilities().rows, d.capabilities().columns)), 0.5, 1e-7, 0.1
            ),
            lambda d, r: d.load_vectors(0, np.full((3, d.capabilities().rows), 0.1)),
            lambda d, r: d.multiply(0, 0, count=3),
            lambda d, r: d.calibration_id(0),
            lambda d, r: d.last_action(),
            lambda d, r: d.idle(),
            lambda d, r: d.reset(),
            lambda d, r: d.safe(),
            lambda d, r: d.arm_watchdog(0),
            lambda d, r: d.check_limits(),
            lambda d, r: d.identify(),
            _parameter,
        ),
    ),
}


def trial(name: str, broker: DamagingBroker, rng: random.Random, calls: int) -> tuple[Counter[str], str]:
    """So many calls of a driver; how they ended, and the first foreign exception."""
    make, ways = DRIVERS[name]
    told: Counter[str] = Counter()
    driver: Instrument | None = None
    first = ""
    for _ in range(calls):
        if driver is None or rng.random() < ANEW:
            if driver is not None:
                driver.close()
            driver = None
        try:
            if driver is None:
                driver = make()
            rng.choice(ways)(driver, rng)
            told["right or harmless"] += 1
        except InstrumentError:
            told["error of ours"] += 1
        except Exception as error:
            told["FOREIGN"] += 1
            first = first or repr(error)[:300]
        if driver is None:
            with suppress(KeyError):
                Instrument.find_instrument(name).close()
    if driver is not None:
        driver.close()
    told["damaged"] = broker.wires[name].damaged
    return told, first


def services() -> dict[str, Any]:
    """Every stand-in, by the name of its driver here."""
    coil = KepcoSpec.model_validate({"inductance": "1 uH", "response": "100 ns"})
    rack = Station(StationConfig(lot="tio2-8x8", seed=1, dies=2, rack=RackStationSpec(), magnet=coil))
    board = Station(StationConfig(seed=1, dies=4))
    return {each.name: each.service for station in (rack, board) for each in station._instruments}


def main() -> None:
    """Try all drivers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="of each driver")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(f"seed {options.seed}, {100 * SHARE:g} % of the replies damaged")
    print("driver    calls  damaged  right or harmless  error of ours  FOREIGN  time/s")
    for name in DRIVERS:
        rng = random.Random(f"{options.seed} {name}")
        broker = DamagingBroker(services(), rng, SHARE)
        began = time.perf_counter()
        with through(broker), patch("time.sleep", lambda seconds: None):
            told, first = trial(name, broker, rng, options.calls)
        print(f"{name:8}{options.calls:7}{told['damaged']:9}{told['right or harmless']:19}{told['error of ours']:15}"
              f"{told['FOREIGN']:9}{time.perf_counter() - began:8.0f}  {first}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
