"""A wire on which requests and replies get lost, late or damaged, message by message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from sim_backends.wire.faults import Fault, FaultPlan
from sim_backends.wire.tcp import Delivery, Service, Wire

_REQUEST_MAX = 1 << 20  # bytes; what is longer is handed to the instrument as it comes
_FLIPPED = 0x80  # this bit makes no valid text of a line


class Dialect(Service, Protocol):
    """A service whose requests can be told apart."""

    end: bytes
    """Byte that ends a request."""

    def request_name(self, request: bytes) -> str:
        """What a fault calls this request (`Fault.matching`)."""

    def busy_reply(self, request: bytes) -> bytes:
        """Reply that refuses a request for now."""


class FaultyWire(Wire):
    """The way of every single request to an instrument and of its reply back, with the faults of a plan.

    Parameters
    ----------
    service
        The instrument.
    plan
        Its faults; also those of the instrument itself are counted here.
    """

    def __init__(self, service: Dialect, plan: FaultPlan) -> None:
        super().__init__(service)
        self._dialect, self._plan = service, plan
        self._received = bytearray()

    def connected(self) -> None:
        """Forget what the last client sent half of."""
        self._received.clear()
        super().connected()

    def exchange(self, data: bytes) -> Iterator[Delivery]:
        """Hand over complete requests one by one; what follows a hang-up is never handed over."""
        self._received += data
        while (length := self._received.find(self._dialect.end) + 1) > 0:
            request = bytes(self._received[:length])
            del self._received[:length]
            yield from self._pass(request) if request.strip() in (b"", self._dialect.end) else self._strike(request)
        if len(self._received) > _REQUEST_MAX:
            part = bytes(self._received)
            self._received.clear()
            yield from self._pass(part)

    def _pass(self, data: bytes) -> Iterator[Delivery]:
        return super().exchange(data)

    def _strike(self, request: bytes) -> Iterator[Delivery]:
        faults = self._plan.arrives(self._dialect.request_name(request))
        if any(fault.kind == "lost_request" or fault.before for fault in faults):
            reply = b""
        elif any(fault.kind == "busy" for fault in faults):
            reply = self._dialect.busy_reply(request)
        else:
            reply = self._dialect.receive(request)
        delivery = Delivery(reply)
        for fault in faults:
            delivery = _REPLIES.get(fault.kind, _unchanged)(fault, delivery)
        yield delivery


def garbled(reply: bytes) -> bytes:
    """A reply with one bit of its middle byte flipped."""
    middle = (len(reply) - 1) // 2
    return bytes(byte ^ _FLIPPED if at == middle else byte for at, byte in enumerate(reply))


def _unchanged(fault: Fault, delivery: Delivery) -> Delivery:
    return delivery


_REPLIES: dict[str, Callable[[Fault, Delivery], Delivery]] = {
    "lost_reply": lambda fault, delivery: replace(delivery, data=b""),
    "late_reply": lambda fault, delivery: replace(delivery, delay=fault.seconds or 0.0),
    "garbled_reply": lambda fault, delivery: replace(delivery, data=garbled(delivery.data)),
    "duplicated_reply": lambda fault, delivery: replace(delivery, data=2 * delivery.data),
    "disconnect": lambda fault, delivery: replace(delivery, data=b"", hang_up=True),
    "refuse_connections": lambda fault, delivery: replace(delivery, data=b"", hang_up=True, refuse=fault.lasts),
}
