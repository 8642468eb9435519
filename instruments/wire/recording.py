"""A station made of a recording: it answers what was answered then, and objects to the first byte that differs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

from instruments.wire.traffic import Entry, Kind, TrafficError, read_traffic

_REPLAYED = (Kind.OPEN, Kind.SEND, Kind.MESSAGE, Kind.FAULT)
_SHOWN = 24


class DeviationError(RuntimeError):
    """What was asked is not what was recorded; the message shows both."""


class Recording:
    """The traffic of a run, by session."""

    def __init__(self, path: Path) -> None:
        self._sessions: dict[int, dict[str, Any]] = {}
        self._entries: dict[int, list[Entry]] = defaultdict(list)
        self._taken: set[int] = set()
        for entry in read_traffic(path):
            if entry.kind is Kind.SESSION:
                self._sessions[entry.session] = _session(entry.payload, path)
            elif entry.kind in _REPLAYED:
                self._entries[entry.session].append(entry)

    def transport(self, kind: str, address: str) -> RecordedTransport:
        """The next recorded session of that kind, in the order in which they were opened.

        Raises
        ------
        DeviationError
            There was none.
        """
        for number, said in self._sessions.items():
            if number not in self._taken and said["kind"] == kind:
                self._taken.add(number)
                return RecordedTransport(f"{said['address']}", self._entries[number])
        raise DeviationError(f"a session on {address} ({kind}) is opened that the recorded run did not open")


def _session(payload: bytes, path: Path) -> dict[str, Any]:
    try:
        said = json.loads(payload)
        return {"kind": said["kind"], "address": said["address"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise TrafficError(f"{path} does not say what its sessions are ({error!r}); it is damaged") from error


class RecordedTransport:
    """Answers one session's requests from a recording; fills `instruments.wire.transports.Transport`."""

    def __init__(self, name: str, entries: list[Entry]) -> None:
        self._name, self._entries, self._at = name, entries, 0
        self._deviation = ""  # the first one: what comes after it means nothing

    def open(self) -> None:
        """What opening led to then."""
        entry = self._next(Kind.OPEN, "the connection is opened")
        if entry.payload:
            raise ConnectionError(entry.payload.decode())

    def close(self) -> None:
        """Nothing is held."""

    def send(self, data: bytes) -> None:
        """See that the same was sent then."""
        entry = self._next(Kind.SEND, f"{len(data)} bytes are sent")
        if entry.payload != data:
            self._deviate(_difference(entry.payload, data), self._at - 1)

    def interrupt(self, data: bytes) -> None:
        """What is sent out of turn is not compared: it depends on the moment."""

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """What was received then, or the fault there was."""
        entry = self._next(Kind.MESSAGE, "an answer is awaited", Kind.FAULT)
        if entry.kind is Kind.FAULT:
            name, _, text = entry.payload.decode().partition("\n")
            raise (TimeoutError if name == "TimeoutError" else ConnectionError)(text)
        return entry.payload

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """`send`, then `receive`."""
        self.send(data)
        return self.receive(terminator, timeout)

    def abandon(self, reason: str | None) -> None:
        """Nobody waits for long."""

    def _next(self, wanted: Kind, doing: str, other: Kind | None = None) -> Entry:
        if self._deviation:
            raise DeviationError(self._deviation)
        if self._at >= len(self._entries):
            self._deviate(f"{doing}, but the recording of this session ends here", self._at)
        entry = self._entries[self._at]
        if entry.kind not in (wanted, other):
            was = entry.kind.name.lower().replace("_", " ")
            shown = entry.payload[:_SHOWN]
            self._deviate(f"{doing}, but recorded is: {was} {shown.hex(' ')}  {_text(shown)}", self._at)
        self._at += 1
        return entry

    def _deviate(self, how: str, at: int) -> NoReturn:
        self._deviation = f"{self._name}, entry {at} of {len(self._entries)}: {how}"
        raise DeviationError(self._deviation)


def _difference(recorded: bytes, sent: bytes) -> str:
    """Both sides around the first byte that differs."""
    common = min(len(recorded), len(sent))
    first = next((i for i in range(common) if recorded[i] != sent[i]), common)
    begin = max(0, first - _SHOWN // 2)
    then, now = recorded[begin : begin + _SHOWN], sent[begin : begin + _SHOWN]
    return (
        f"byte {first} differs ({len(recorded)} bytes recorded, {len(sent)} sent now)\n"
        f"  recorded from byte {begin}: {then.hex(' ')}  {_text(then)}\n"
        f"  sent now from byte {begin}: {now.hex(' ')}  {_text(now)}"
    )


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
