"""Drivers that are not ours open no connection of their own: a replay would reach it, and nobody would switch it off.

Asked for a VISA library, they get the one that leads to our sessions (`instruments.foreign.held_visa`); what else they
try to open (a socket, a shared library, a serial port) is refused. Who asks is told by the call stack: the innermost
function that is ours or theirs.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

import pyvisa.highlevel
from pyvisa.highlevel import VisaLibraryBase

from instruments.roles.interfaces import InstrumentError

_library: ContextVar[VisaLibraryBase | None] = ContextVar("library", default=None)
_foreign: Counter[str] = Counter()  # packages of drivers that are in use
_nobody_connects = 0
_installed = False
_QUIET_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/tty")


class OwnConnectionError(InstrumentError):
    """Something tries to open a connection that the broker does not hold."""


@contextlib.contextmanager
def leading_to(library: VisaLibraryBase) -> Iterator[None]:
    """While a driver is made, every VISA library that it asks for is `library`."""
    token = _library.set(library)
    try:
        yield
    finally:
        _library.reset(token)


def watch(package: str) -> Callable[[], None]:
    """Refuse what drivers of a package open by themselves; returns what ends that."""
    _install()
    packages = (package, "qcodes.instrument", "qcodes.instrument_drivers", "pymeasure.adapters")
    _foreign.update(packages)
    return lambda: _foreign.subtract(packages)


@contextlib.contextmanager
def nobody_connects() -> Iterator[None]:
    """Inside, nothing but our own wire opens a connection: not a driver, and no script that makes one by itself."""
    global _nobody_connects
    _install()
    _nobody_connects += 1
    try:
        yield
    finally:
        _nobody_connects -= 1


def _install() -> None:
    """Once: the hook cannot be taken back, and it looks only at what it is about."""
    global _installed
    if _installed:
        return
    _installed = True
    open_library = pyvisa.highlevel.open_visa_library

    def ours_for_them(specification: str = "") -> VisaLibraryBase:
        asking = _who_asks()
        if asking == _OURS or (asking == _OTHERS and not _nobody_connects):
            return open_library(specification)
        library = _library.get()
        if library is None:
            raise _refused("a VISA resource")
        return library

    pyvisa.highlevel.open_visa_library = ours_for_them
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):  # not a socket of this machine's own
        what = f"a connection to {arguments[1]}"
    elif event == "ctypes.dlopen" and arguments[0] is not None:
        what = f"the library {arguments[0]}"
    elif event == "open" and isinstance(arguments[0], str) and _is_device(arguments[0]):
        what = f"the device {arguments[0]}"
    else:
        return
    asking = _who_asks()
    if asking == _FOREIGN or (asking == _OTHERS and _nobody_connects and event != "ctypes.dlopen"):
        raise _refused(what)


def _is_device(name: str) -> bool:
    if name.startswith("/dev/"):
        return name not in _QUIET_DEVICES and not name.startswith("/dev/shm/")
    return name.startswith("\\\\.\\")


_OURS, _FOREIGN, _OTHERS = "ours", "a driver", "others"


def _who_asks() -> str:
    """Whose the innermost function is that is ours or a driver's; what is being imported counts as ours."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith("importlib._bootstrap") or name.partition(".")[0] == "instruments":
            return _OURS
        if any(count > 0 and (name == each or name.startswith(f"{each}.")) for each, count in _foreign.items()):
            return _FOREIGN
        frame = frame.f_back
    return _OTHERS


def _refused(what: str) -> OwnConnectionError:
    return OwnConnectionError(
        f"something beside the broker tries to open {what}: such an instrument cannot be held by the broker, would "
        "stay on when the program is gone, and be reached by a replay. Name it in the station file, with a VISA driver"
    )
