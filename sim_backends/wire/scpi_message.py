"""Messages of IEEE 488.2, cut out of the bytes of a connection: block data and text in quotes are data.

A message ends with LF and holds commands, separated by ``;``; a command is a header and, after a blank, parameters,
separated by ``,``. Within quotes, and within the counted bytes of a block (``#15HELLO``: one digit says how many the
count 5 has), these signs mean nothing. A block may come in pieces; what is in it is not kept, for nothing here takes
one. Two things are less than the standard has, because a socket does not carry its END signal: a block without a count
(``#0``) ends with its line, and so does text whose closing quote is missing; text may hold a line feed only if its
closing quote has come with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LINE_MAX = 4096
"""Bytes of a message at most, the content of counted blocks apart."""

BLOCK = "#"
"""What stands for a block among parameters."""

_SIGN = re.compile(rb"[\n\"']|(?<=[\s,])#")
_TOKEN = re.compile(r"""(?P<text>"[^"]*"|'[^']*')|(?P<sign>[;,])|(?P<open>["'])|[^;,"']+""")


@dataclass(frozen=True)
class Command:
    """A header and its parameters as they were sent: text in its quotes, `BLOCK` for a block."""

    header: str
    parameters: list[str]


class Messages:
    """Cuts messages out of bytes as they come."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget what was received of a message that has not ended."""
        self._buffer = bytearray()
        self._at = 0  # nothing before it ends the message
        self._block_left = 0  # bytes of a block that are still to come
        self._overlong = False

    def feed(self, data: bytes) -> Iterator[str | None]:
        """Take bytes; the messages that end in them, None for one that was too long."""
        self._buffer += data
        while (end := self._end()) >= 0:
            line, overlong = self._buffer[:end], self._overlong or end > LINE_MAX
            del self._buffer[: end + 1]
            self._at, self._overlong = 0, False
            yield None if overlong else line.decode("ascii", "replace")
        if len(self._buffer) > LINE_MAX:
            self._overlong = True
            self._buffer.clear()
            self._at = 0

    def _end(self) -> int:
        """Where the line feed is that ends the message; -1 if it has not come."""
        if self._overlong:
            return self._buffer.find(b"\n")
        while self._block_came() and (found := _SIGN.search(self._buffer, self._at)):
            at = found.start()
            if found[0] == b"\n":
                return at
            behind = self._behind_block(at) if found[0] == b"#" else self._behind_text(at, found[0])
            if behind < 0:
                self._at = at
                return -1
            self._at = behind
        return -1

    def _block_came(self) -> bool:
        """Throw away what has come of a block; whether that was all of it."""
        gone = min(self._block_left, len(self._buffer) - self._at)
        del self._buffer[self._at : self._at + gone]
        self._block_left -= gone
        return not self._block_left

    def _behind_text(self, at: int, quote: bytes) -> int:
        """Where text in quotes ends: behind its closing quote, or with its line; -1 if neither has come."""
        closing = self._buffer.find(quote, at + 1, at + LINE_MAX)
        return closing + 1 if closing >= 0 else self._buffer.find(b"\n", at + 1)

    def _behind_block(self, at: int) -> int:
        """Take a block out but for its sign; where it was, -1 if too little of it has come to tell."""
        digits = bytes(self._buffer[at + 1 : at + 2])
        if digits == b"0":
            end = self._buffer.find(b"\n", at)
            if end >= 0:
                del self._buffer[at + 1 : end]
            return at + 1 if end >= 0 else -1
        if not digits:
            return -1
        if not digits.isdigit():
            return at + 1  # a number such as #HFF
        count = bytes(self._buffer[at + 2 : at + 2 + int(digits)])
        if len(count) < int(digits) and (not count or count.isdigit()):
            return -1
        if count.isdigit():
            del self._buffer[at + 1 : at + 2 + int(digits)]
            self._block_left = int(count)
        return at + 1


def commands(message: str) -> tuple[list[Command], bool]:
    """The commands of a message, and whether it ends in text whose closing quote is missing (left out then)."""
    found: list[Command] = []
    pieces = [""]
    for token in _TOKEN.finditer(message):
        if token["open"]:
            return found, True
        if token["sign"] == ";":
            found += _command(pieces)
            pieces = [""]
        elif token["sign"]:
            pieces.append("")
        else:
            pieces[-1] += token[0]
    return found + _command(pieces), False


def _command(pieces: list[str]) -> list[Command]:
    """The command of some pieces between commas; none for nothing but blanks."""
    header, *first = pieces[0].strip().split(maxsplit=1) or [""]
    if len(pieces) == 1 and not header:
        return []
    if not first and len(pieces) > 1:
        return [Command(",".join(pieces), [])]
    return [Command(header, [*first, *(each.strip() for each in pieces[1:])])]


def unquoted(text: str) -> str | None:
    """What stands in quotes; None if it is not text in quotes. A doubled quote stands for one."""
    if len(text) < 2 or text[0] not in "\"'" or text[-1] != text[0]:
        return None
    return text[1:-1].replace(2 * text[0], text[0])
