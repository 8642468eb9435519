"""Standard output and standard error as streams that take everything: what becomes of them ends or fails no run.

They may be gone (a reader that ended, a closed terminal), full (a log's disk), closed from the start, or of an encoding
that lacks our signs.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, cast

#: What stands for a sign that an encoding lacks; any other is written as its number.
_PLAIN = {
    "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "µ": "u", "μ": "u", "Ω": "Ohm", "°": "deg", "±": "+-",
    "…": "...", "“": '"', "”": '"', "‘": "'", "’": "'", "≤": "<=", "≥": ">=", "²": "2", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_ERRORS = "xbarlab.plain"
#: Write errors after which there may be room again.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class Steady:
    """One of the standard streams, whatever becomes of it: writing to it never raises.

    Attributes
    ----------
    lost
        Why text did not arrive, in words; empty if all did.
    """

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self._name, self._stream, self._late = name, stream, list[str]()
        self.lost = ""

    @property
    def encoding(self) -> str:
        """That of the stream; UTF-8 where it has none."""
        return getattr(self._now(), "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:
        """How signs that the encoding lacks are written."""
        return _ERRORS

    def write(self, text: str) -> int:
        """Write text as far as that is possible."""
        if not isinstance(text, str):  # by this, libraries tell a stream of text from one of bytes
            raise TypeError(f"a stream of text, not of {type(text).__name__}")
        self._late.append(text)
        self._try(self._write_late)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, as far as that is possible."""
        self._try(self._write_late)
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        """Whether it is a terminal; False if it is gone."""
        try:
            stream = self._now()
            return stream is not None and stream.isatty()
        except (OSError, ValueError):
            return False

    def release(self) -> None:
        """Hand on the rest; what cannot be is dropped here, where the interpreter's end would fail over it."""
        before, self.lost = self.lost, ""
        self.flush()
        if self.lost:
            self._silence()
        self.lost = self.lost or before

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # who writes bytes there passes us by
            raise AttributeError(name)
        return getattr(self._now(), name)

    def _now(self) -> TextIO | None:
        """The stream; of a console the one that is standard now, also while a live display stands in for it."""
        if self._stream is not None:
            return self._stream
        stream = getattr(sys, self._name)
        return cast("TextIO | None", getattr(stream, "rich_proxied_file", stream))

    def _write_late(self, stream: TextIO) -> None:
        while self._late:
            text = self._late[0]
            with contextlib.suppress(LookupError):  # an encoding of the user's own that is none of characters
                text = text.encode(self.encoding, _ERRORS).decode(self.encoding)
            stream.write(text)
            self._late.pop(0)

    def _try(self, do: Callable[[TextIO], object]) -> None:
        stream = self._now()
        if stream is None:
            self._late.clear()
            return
        try:
            do(stream)
            if isinstance(stream, Steady):
                self.lost = self.lost or stream.lost
        except RuntimeError:  # called by a signal while the stream was being written to: with the next text, then
            return
        except ValueError:
            self._late.clear()
            self.lost = self.lost or "it was closed"
        except OSError as error:
            self._late.clear()
            self.lost = self.lost or (error.strerror or str(error))
            if error.errno not in _FULL:
                self._silence()

    def _silence(self) -> None:
        """Put nothing in the place of what is gone, for this stream and whatever else writes there."""
        stream = self._now()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            number = cast(TextIO, stream).fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    """What is written for signs that an encoding lacks: the like in ASCII, or their number as ``\\u2588``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(s) or s.encode("ascii", "backslashreplace").decode() for s in signs), error.end


codecs.register_error(_ERRORS, _plain)


@contextlib.contextmanager
def steady() -> Iterator[None]:
    """Make standard output and standard error of this process ones that take everything, for what is done within."""
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        ours = Steady("stdout", before[0] or nowhere), Steady("stderr", before[1] or nowhere)
        sys.stdout, sys.stderr = (cast(TextIO, each) for each in ours)
        try:
            yield
        finally:
            for each in ours:
                each.release()
            sys.stdout, sys.stderr = before


def _fill_descriptors() -> None:
    """Open what was closed when this process began: the first file would get that number, and what others print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
