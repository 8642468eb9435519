"""Whose script it is that a record names: nothing of it is imported until the user has run it himself, or agrees.

A record may come from anywhere, and with it the name of a script, which may lie beside it. What the user runs himself
is kept in a list of his own: folder and number of the run, the script, and a digest of it and of the modules beside it
that it imports. `xbar resume` and `xbar replay` import what stands there; of anything else they say what it is and wait
for ``--trust``. What a record says of itself counts for nothing here.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protocols.source.catalogue import SHIPPED, ProtocolNotFoundError
from protocols.source.module_source import ModuleSource, named_modules
from protocols.terminal.console import say

#: File of the list in the state folder; a line is an entry.
FILE = "runs.jsonl"


class NotTrustedError(RuntimeError):
    """A record names a script that is not known to be the user's; nothing of it was imported."""


@dataclass(frozen=True)
class Known:
    """A run of the user's own: folder of the lot, number, script, digest of what it imports."""

    folder: str
    run: int
    script: str
    digest: str


def check_trust(folder: Path, run: int, find: Any, *, agreed: bool) -> None:
    """Raise `NotTrustedError` unless the script of a run is the user's own or he agrees to it.

    Parameters
    ----------
    folder, run
        Of the lot and the run, as they were asked for.
    find
        By which name its protocol is found, as the record says.
    agreed
        The user says so; it is kept.
    """
    script = _script_of(find)
    if script is None or not script.is_file():  # there is nothing to import, and who looks for it says so
        return
    here, digest = str(folder.resolve()), script_digest(script)
    ours = [known for known in _read() if (known.folder, known.run) == (here, run)]
    if any((known.script, known.digest) == (str(script), digest) for known in ours):
        return
    if agreed:
        _write(Known(here, run, str(script), digest))
        return
    if any(known.script == str(script) for known in ours):
        if not script.is_relative_to(folder.resolve()):  # his own file elsewhere: no record brings it along
            say(f"{script}, or a module beside it that it imports, is not what it was when run {run} was begun")
            return
        why = "it, or a module beside it that it imports, has changed since you ran it"
    elif ours:
        why = f"you ran {ours[-1].script}"
    else:
        why = (
            "this run is not known to be yours: it was begun on another machine, by another user or an earlier "
            "xbarlab, or its folder was moved"
        )
    raise NotTrustedError(
        f"the record in {folder} names the script {script} for run {run}, and {why}. Nothing of it was imported. "
        f"Read it; if you want it to be run, give --trust{_where_it_is_noted()}"
    )


def note_run(folder: Path, run: int, find: str) -> None:
    """Keep that the user himself runs a script; if that cannot be kept, say so, for then he will be asked."""
    script = _script_of(find)
    if script is not None:
        _write(Known(str(folder.resolve()), run, str(script), script_digest(script)))


def state_folder() -> Path | None:
    """Where the user's state is kept; None if the system names no place (no HOME)."""
    named = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_STATE_HOME", "")
    if named and Path(named).is_absolute():
        return Path(named) / "xbarlab"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    local = home / ("AppData/Local" if os.name == "nt" else ".local/state")
    return local / "xbarlab" if home.is_absolute() else None


def script_digest(script: Path) -> str:
    """SHA-256 over a script and the modules of its folder that it imports, directly or not; nothing is imported."""
    whole = hashlib.sha256()
    for name, content in sorted(_with_neighbours(script).items()):
        whole.update(json.dumps([name, hashlib.sha256(content).hexdigest()]).encode())
    return whole.hexdigest()


def _with_neighbours(script: Path) -> dict[str, bytes]:
    """Content of a script and of what it imports from its folder, by name in it."""
    folder, found, waiting = script.parent, dict[str, bytes](), [(script, script.name, "")]
    while waiting:
        file, name, package = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = file.read_bytes()
            modules = named_modules(ModuleSource(name, package, found[name].decode("utf-8", "replace")))
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for module in modules:
            place = folder.joinpath(*module.split("."))
            for beside, inside in ((place.with_name(f"{place.name}.py"), False), (place / "__init__.py", True)):
                if beside.is_file():
                    waiting.append((beside, beside.relative_to(folder).as_posix(), _package(module, inside)))
    return found


def _package(module: str, is_package: bool) -> str:
    return module if is_package else module.rpartition(".")[0]


def _script_of(find: Any) -> Path | None:
    """The script of a protocol that is found by this name; None for those that ship, and where no script is named."""
    if not isinstance(find, str) or find in SHIPPED:
        return None
    path, _, _ = find.rpartition(":")
    try:
        return Path(path).resolve() if path else None
    except (OSError, ValueError) as error:
        raise ProtocolNotFoundError(f"the record names a script that no file can be: {path!r} ({error})") from error


# the list


def _read() -> list[Known]:
    """The entries that can be read, oldest first; none of a list that others can write."""
    folder = state_folder()
    if folder is None:
        return []
    try:
        with (folder / FILE).open(encoding="utf-8", errors="replace") as file:
            if os.name == "posix":
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                    say(f"{folder / FILE} is not taken for the list of your runs: others can write it")
                    return []
            lines = file.readlines()
    except OSError:
        return []
    known = []
    for line in lines:
        try:
            entry = json.loads(line)
            known.append(Known(str(entry["folder"]), int(entry["run"]), str(entry["script"]), str(entry["digest"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a line that was cut short
    return known


def _write(entry: Known) -> None:
    folder = state_folder()
    if folder is None:
        say(f"no folder for your state is named (HOME): resume and replay of run {entry.run} will ask for --trust")
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        line = (json.dumps(asdict(entry)) + "\n").encode()
        file = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
    except OSError as error:
        say(f"cannot keep in {folder / FILE} that run {entry.run} is yours ({error.strerror}): resume and replay of it "
            "will ask for --trust")  # fmt: skip


def _where_it_is_noted() -> str:
    folder = state_folder()
    return "" if folder is None else f" (runs of your own are known by {folder / FILE})"
