"""One program of this machine at a time uses an instrument, whatever its station file, user or temporary folder.

What is locked is the *address*, in one way of writing it (`address_name`), by a file in a folder that all users of the
machine share. The operating system lets go of it when the process ends, however that ends. A lock file of another user
is locked as it is, for reading: nobody needs the right to write it.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import socket
import stat
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from instruments.roles.interfaces import InstrumentError

_AGAIN = 0.05  # s; between two tries
_LARGEST = 4096  # bytes of a lock file that are read
_SHARED = ("/run/lock", "/var/lock", "/tmp", "/var/tmp")

_log = logging.getLogger(__name__)


class InUseError(InstrumentError):
    """Another process uses the instrument; the message names it."""


if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # beyond what says who holds it: a locked byte cannot be read

    def _lock(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def shared_folder() -> Path | None:
    """The folder for locks that is the same for every user; None where there is none."""
    if os.name == "nt":
        folder = Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "xbarlab"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
        return folder if folder.is_dir() else None
    for name in _SHARED:
        with contextlib.suppress(OSError):
            if Path(name).stat().st_mode & stat.S_IWOTH:  # of the folder, not of who asks: all come to the same one
                return Path(name)
    return None


def address_name(kind: str, address: str) -> str:
    """An address as all its spellings have it in common.

    Parameters
    ----------
    kind
        ``port``, ``visa`` or ``library``, as for `instruments.wire.transports.transport_of`.
    address
        E.g. ``socket://localhost:5025``, ``TCPIP::127.0.0.1::5025::SOCKET`` (the same), ``COM4``, ``GPIB::20``.
    """
    text = address.strip()
    if kind == "visa":
        for spelt in (text, text.upper()):  # only the path of a serial port minds
            with contextlib.suppress(ValueError):
                return _visa_name(spelt)
    if kind == "port":
        if text.lower().startswith(("socket://", "rfc2217://")):
            parts = urlsplit(text)
            with contextlib.suppress(ValueError):
                return f"tcp:{_host(parts.hostname or '')}:{parts.port}"
        if "://" not in text:
            return _serial_name(text)
    return f"{kind}:{text.lower()}"


def _visa_name(address: str) -> str:
    from pyvisa import rname

    try:
        name: Any = rname.ResourceName.from_string(address)
    except rname.InvalidResourceName as error:
        raise ValueError(str(error)) from error
    fields = {key: str(value) for key, value in vars(name).items() if not key.startswith("_")}
    kind, board = name.interface_type, fields.get("board", "0")
    if kind == "TCPIP" and name.resource_class == "SOCKET":
        return f"tcp:{_host(name.host_address)}:{int(name.port)}"
    if kind == "TCPIP":
        return f"lan:{_host(name.host_address)}:{fields.get('lan_device_name', '').lower()}"
    if kind == "ASRL":
        return _serial_name(f"COM{board}" if board.isdigit() else board)
    if kind == "GPIB":
        secondary = fields.get("secondary_address", "0")
        return f"gpib:{board}:{fields.get('primary_address', '')}:{'' if secondary in ('0', '', 'None') else secondary}"
    if kind == "USB":
        maker, model = (int(fields[key], 0) for key in ("manufacturer_id", "model_code"))
        return f"usb:{maker:04x}:{model:04x}:{fields['serial_number'].lower()}"
    return f"visa:{name!s}".lower()


def _host(name: str) -> str:
    """A host by its number where that can be found out; all names of this machine are one."""
    name = name.strip("[]").lower().rstrip(".")
    try:
        found = ipaddress.ip_address(name)
    except ValueError:
        try:
            found = ipaddress.ip_address(socket.gethostbyname(name))
        except (OSError, ValueError, UnicodeError):
            return name
    return "localhost" if found.is_loopback else str(found)


def _serial_name(name: str) -> str:
    if name.startswith("/"):
        return f"serial:{os.path.realpath(name)}"  # /dev/serial/by-id/... leads to the device
    return "serial:" + name.lstrip("\\/.").lower()


class _Held:
    """A lock that this process has, and how many of its connections share it."""

    def __init__(self, path: Path, handle: int | None) -> None:
        self.path, self.handle, self.users = path, handle, 1


_held: dict[str, _Held] = {}
_held_lock = threading.Lock()
_purpose = ""


def say_purpose(text: str) -> None:
    """What this process uses instruments for, as others who want them are told."""
    global _purpose
    _purpose = text


class AddressLock:
    """The right to connect to an address; connections of one process share it.

    Parameters
    ----------
    kind, address
        As for `address_name`.
    """

    def __init__(self, kind: str, address: str) -> None:
        self._name, self._address = address_name(kind, address), address
        self._mine = False

    def acquire(self, patience: float = 0.0) -> None:
        """Take it, within `patience` (s): a broker that is making something safe is waited for.

        Raises
        ------
        InUseError
            Another process has it.
        """
        if self._mine:
            return
        end = time.monotonic() + patience
        while (holder := self._try()) is not None:
            if time.monotonic() >= end or holder.hangs:
                raise InUseError(f"{self._address}: another program holds this station: {holder}")
            time.sleep(_AGAIN)
        self._mine = True

    def release(self) -> None:
        """Let others connect, when the last connection of this process has let go."""
        if not self._mine:
            return
        self._mine = False
        with _held_lock:
            held = _held[self._name]
            held.users -= 1
            if held.users == 0:
                del _held[self._name]
                _let_go(held)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the program nothing may be left to do it with
            self.release()

    def _try(self) -> Holder | None:
        """Take it; who has it if that is somebody else."""
        with _held_lock:
            if self._name in _held:
                _held[self._name].users += 1
                return None
            folder = shared_folder()
            if folder is None:
                _log.warning("there is no folder for locks that all users share; %s is not locked", self._address)
                _held[self._name] = _Held(Path(), None)
                return None
            path = folder / f"xbarlab-{hashlib.sha256(self._name.encode()).hexdigest()[:20]}.lock"
            try:
                handle = _taken(path)
            except OSError as error:  # of another user, who keeps others from even reading it
                _log.warning("%s cannot be opened (%s); %s is not locked", path, error, self._address)
                handle = None
            except _TakenError:
                return Holder.of(path)
            if handle is not None:
                _sign(handle, self._address)
            _held[self._name] = _Held(path, handle)
            return None


class _TakenError(Exception):
    """Another process has it."""


def _taken(path: Path) -> int:
    """The locked file; what was removed or exchanged meanwhile is not the file that others look at."""
    while True:
        handle = _opened(path)
        try:
            try:
                _lock(handle)
            except (BlockingIOError, PermissionError):
                raise _TakenError from None
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _opened(path: Path) -> int:
    """The file as it is, or a new one that everybody may lock.

    In a folder that all may write into, Linux refuses to open another user's file in a way that could make one.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        for access in (os.O_RDWR, os.O_RDONLY):
            with contextlib.suppress(PermissionError, FileNotFoundError):
                handle = os.open(path, access | flags)
                if stat.S_ISREG(os.fstat(handle).st_mode):
                    return handle
                os.close(handle)
                raise OSError(f"{path} is no file")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
        except FileExistsError:
            if not os.access(path, os.R_OK):
                raise PermissionError(f"{path} cannot be read") from None
            continue
        if os.name == "posix":
            os.fchmod(handle, 0o666)  # whatever the umask
        return handle


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _sign(handle: int, address: str) -> None:
    """Say who holds it; a file of another user cannot be signed."""
    said = {"pid": os.getpid(), "started": psutil.Process().create_time(), "purpose": _purpose, "address": address}
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(said).encode())


def _let_go(held: _Held) -> None:
    """Remove the file, as far as it is ours, before others may lock it."""
    if held.handle is None:
        return
    if os.name == "posix" and _is_at(held.handle, held.path):
        with contextlib.suppress(OSError):
            held.path.unlink()
    os.close(held.handle)
    if os.name == "nt":
        with contextlib.suppress(OSError):
            held.path.unlink()


class Holder:
    """The process that has a lock, as far as the file and the system tell."""

    def __init__(self, process: psutil.Process | None, user: str = "", purpose: str = "") -> None:
        self._process, self._user, self._purpose = process, user, purpose

    @classmethod
    def of(cls, path: Path) -> Holder:
        """By what a lock file says; that may be anything."""
        try:
            with path.open("rb") as file:
                said = json.loads(file.read(_LARGEST))
            process = psutil.Process(int(said["pid"]))
            if abs(process.create_time() - float(said["started"])) > 2.0:
                raise ValueError("another process has that number by now")
            user, purpose = process.username(), str(said["purpose"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, psutil.Error):
            return cls(None)
        return cls(process, user, "".join(each for each in purpose if each.isprintable())[:200])

    @property
    def hangs(self) -> bool:
        """Whether it was stopped and will not let go by itself."""
        with contextlib.suppress(psutil.Error):
            return self._process is not None and self._process.status() == psutil.STATUS_STOPPED
        return False

    def __str__(self) -> str:
        if self._process is None:
            return "it is not known which. Let it end, or end it with xbar abort on its folder"
        what = ", ".join(filter(None, [self._purpose, "it was stopped" if self.hangs else ""]))
        return (
            f"process {self._process.pid} of user {self._user}{f' ({what})' if what else ''}. Let it end, end it with "
            "xbar abort on the folder of its run, or end that process"
        )
