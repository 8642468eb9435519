"""Where everything that is said goes. What is shown is decoration: nothing that happens to it ends or fails a run.

`console` makes the consoles, over streams that take everything (`protocols.terminal.streams`); nothing else in these
packages prints.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from protocols.terminal.streams import Steady

#: Controls of a terminal and of the direction of text: what was written elsewhere must not steer the reader's terminal.
_CONTROLS = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}

#: Columns below which tables lose what is in them (assumed); a terminal that has less breaks the lines.
NARROWEST = 40


def console(*, stderr: bool = False) -> Console:
    """Make a console for standard output, or for standard error."""
    return PlainConsole(file=cast(TextIO, Steady("stderr" if stderr else "stdout")))


def say(text: str) -> None:
    """Print one line on standard output."""
    console().print(text)


def command(*words: object) -> str:
    """A command as one types it into a shell: words with spaces or brackets in quotes."""
    typed = list(map(str, words))
    return subprocess.list2cmdline(typed) if os.name == "nt" else shlex.join(typed)


def can_redraw(on: Console) -> bool:
    """Whether a console is a terminal that can go back over what it shows; in a log, lines are printed instead."""
    return on.is_terminal and not on.is_dumb_terminal and on.file.isatty()


def lost(on: Console) -> str:
    """Why what was printed on a console did not arrive, in words; empty if everything did."""
    return on.file.lost if isinstance(on.file, Steady) else ""


class PlainConsole(Console):
    """A console that prints text as it is: no markup, no emoji, no colours, no controls, no broken lines.

    Names, paths and messages come from elsewhere; ``[/x]`` in one is no markup. Sentences are left to the terminal to
    wrap, so that a path can be copied and found in a log; tables and other renderables keep to its width.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False} | how)
        if self.width < NARROWEST:
            self.width = NARROWEST

    def print(self, *objects: Any, **how: Any) -> None:
        """As of any console."""
        how.setdefault("soft_wrap", all(isinstance(each, str | Text) for each in objects))
        super().print(*objects, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        """As of any console, with what steers terminals made visible while there is still room for it."""
        return super().render_str(text.translate(_CONTROLS), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As `render_str`, for text that did not come as a string."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(segment.text.translate(_CONTROLS), segment.style)
