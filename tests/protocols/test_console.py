"""Output is decoration: whatever becomes of it, what is done goes on, and text is shown as it is."""

import errno
import io
import subprocess
import sys

import pytest
from rich.progress import Progress
from rich.table import Table

from protocols.terminal.console import command, console, lost
from protocols.terminal.progress import RunProgress, TimesColumn
from protocols.terminal.streams import Steady, steady


def shown(monkeypatch, *things, encoding="utf-8", width="80"):
    """What printing on a console of an encoding gives."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    monkeypatch.setenv("COLUMNS", width)
    on = console()
    for thing in things:
        on.print(thing)
    sys.stdout.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("text", ["lab [/x] y", "[bold]b[/bold]", "old [", "a:100:b :smile:", "[link=x]", "\\[x]"])
def test_text_is_printed_as_it_is(monkeypatch, text):
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    assert shown(monkeypatch, text) == f"{text}\n"
    assert shown(monkeypatch, table).count(text) == 4


def test_sentences_are_not_broken_and_tables_keep_to_the_width(monkeypatch):
    table = Table("a")
    table.add_row("word " * 60)
    assert shown(monkeypatch, "path " * 60).count("\n") == 1
    assert max(map(len, shown(monkeypatch, table).splitlines())) <= 80


@pytest.mark.parametrize("width", ["1", "5", "0", "x"])
def test_a_terminal_without_room(monkeypatch, width):
    table = Table("die", "verdict")
    table.add_row("c3r4", "pass")
    assert shown(monkeypatch, table, width=width)


def test_what_steers_a_terminal_is_shown_instead(monkeypatch):
    table = Table("a")
    table.add_row("x\x1b[2Jy")
    said = shown(monkeypatch, "a\x1b]0;title\x07b\x9bc\u202ed", table)
    assert said.isascii() is False and "\x1b" not in said and "\x9b" not in said and "\u202e" not in said
    assert "\\x1b]0;title" in said and "x\\x1b[2Jy" in said


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "latin-1", "utf-8"])
def test_signs_that_an_encoding_lacks(monkeypatch, encoding):
    table = Table("error")
    table.add_row("−4.0 – µ Ω")
    said = shown(monkeypatch, "−4.0 points at \udcff, 漢", table, encoding=encoding)
    assert "4.0" in said and "?" not in said
    assert ("−4.0" if encoding == "utf-8" else "-4.0") in said
    assert "\\udcff" in said


class Broken(io.StringIO):
    """A stream that fails as one on a full disk or without a reader does."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EIO, "gone"),
                                   ValueError("closed")])  # fmt: skip
def test_output_that_is_gone(monkeypatch, error):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    on = console()
    on.print("one")
    with RunProgress(on) as progress:
        progress.die("c1r1", 0, 1)
        progress.progress("x", 0.5)
    assert lost(on)


def test_output_that_finds_room_again(monkeypatch):
    stream = Broken(OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(sys, "stdout", stream)
    on = console()
    on.print("one")
    stream.error = None
    on.print("two")
    assert stream.getvalue() == "two\n" and "No space" in lost(on)


def test_no_output_at_all(monkeypatch):
    """As a program without a window has it."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console().print("one")
    with steady():
        console().print("two")
        print("three")  # noqa: T201
        sys.stderr.write("four")
    assert sys.stdout is None


def test_a_signal_that_speaks_while_something_is_written(monkeypatch):
    """Python's own streams cannot be written to twice at once; what the signal says comes after."""
    stream = Broken(RuntimeError("reentrant call inside <_io.BufferedWriter>"))
    steady_one = Steady("stdout", stream)
    steady_one.write("from the signal\n")
    stream.error = None
    steady_one.write("next\n")
    assert stream.getvalue() == "from the signal\nnext\n"


def test_foreign_text_in_progress(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with RunProgress(console()) as progress:
        progress.die("[/b]", 0, 1)
        progress.step("[/b]", recorded=False)
        progress.progress("[/b]", float("nan"))
        progress.message("paused [/b] y")
    assert "paused [/b] y" in sys.stdout.getvalue()


def test_a_log_has_times_and_a_sign_of_life_a_minute(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    now = [0.0]
    monkeypatch.setattr("protocols.terminal.progress.time.monotonic", lambda: now[0])
    with RunProgress(console()) as progress:
        for share in range(0, 100):
            now[0] += 1.7
            progress.progress("epoch 3", share / 100)
        progress.progress("odd", None)
    lines = sys.stdout.getvalue().splitlines()
    assert len(lines) == 2 and all("epoch 3" in line and line[2] == line[5] == ":" for line in lines)


def test_elapsed_time_does_not_read_as_time_left():
    now = [100.0]
    progress = Progress(get_time=lambda: now[0])
    progress.add_task("", total=10)
    (task,) = progress.tasks
    assert TimesColumn().render(task).plain == "0:00:00 elapsed"
    now[0] = 110.0
    progress.advance(task.id, 1)
    now[0] = 120.0
    progress.advance(task.id, 1)
    assert TimesColumn().render(task).plain == "0:00:20 elapsed, about 0:01:20 left"


def test_commands_can_be_typed():
    assert command("xbar", "resume", "runs/lot") == "xbar resume runs/lot"
    assert command("xbar", "resume", "lot [/b] y") != "xbar resume lot [/b] y"


# processes, because their real streams are the subject

SAY = """
import sys
from protocols.terminal.streams import steady
from protocols.terminal.console import say
with steady():
    for _ in range(int(sys.argv[1])): say('x' * 50)
sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no shells with these words")
@pytest.mark.parametrize("shell", ["{} | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}", "{} >/dev/full", "{} >&-",
                                   "{} >&- 2>&- <&-", "{} 2>/dev/full >/dev/full"])  # fmt: skip
def test_a_process_ends_as_it_would(shell, tmp_path):
    (tmp_path / "say.py").write_text(SAY, encoding="utf-8")
    lines = 2000 if "|" in shell else 400  # more than a pipe, or than Python's own buffer, takes
    command = shell.format(f"{sys.executable} {tmp_path / 'say.py'} {lines}")
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
