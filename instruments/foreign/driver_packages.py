"""Which classes a station file may name as drivers: those of a few packages, and of what the user allows.

To import a module is to run it, so a name is judged before anything of it is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs
from qcodes.instrument import Instrument

DRIVERS = {
    "instruments": "instruments",
    "qcodes": "qcodes.instrument_drivers",
    "qcodes_contrib_drivers": "qcodes_contrib_drivers.drivers",
    "pymeasure": "pymeasure.instruments",
}
"""Packages that are allowed, and where in them the drivers are."""

_PACKAGE = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")
_PYMEASURE = ("pymeasure.instruments.instrument", "Instrument")

_added: set[str] = set()


class DriverError(ValueError):
    """A name is that of no driver, or of one that is not imported; the message says why."""


def allow(packages: Iterable[str]) -> None:
    """Let station files name drivers of further packages, for as long as this process lives.

    Raises
    ------
    DriverError
        One is no name of a package.
    """
    for package in packages:
        if _PACKAGE.fullmatch(package) is None or package.partition(".")[0] in sys.stdlib_module_names:
            raise DriverError(f"{package!r} is no name of a package with drivers; give one such as mylab.drivers")
        _added.add(package)


def settings_file() -> Path | None:
    """Where the user says what is always allowed: ``allow = ["mylab.drivers"]``; None without a home."""
    try:
        return platformdirs.user_config_path("xbarlab", appauthor=False) / "settings.toml"
    except RuntimeError:
        return None


def allowed() -> dict[str, str]:
    """Packages whose drivers are imported, and where in them the drivers are."""
    return DRIVERS | {package: package for package in (*_by_settings(), *sorted(_added))}


def _by_settings() -> list[str]:
    file = settings_file()
    try:
        said = tomllib.loads(file.read_text(encoding="utf-8")).get("allow", []) if file is not None else []
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DriverError(f"{file} cannot be read ({error}); correct it or remove it") from error
    if not isinstance(said, list) or not all(isinstance(each, str) and _PACKAGE.fullmatch(each) for each in said):
        raise DriverError(f'{file}: allow is no list of packages; write allow = ["mylab.drivers"]')
    return said


def find_driver(dotted: str) -> type:
    """The class of a driver by its name.

    Raises
    ------
    DriverError
        It is not to be imported, cannot be, or is no driver.
    """
    *modules, name = dotted.split(".")
    home = _home(dotted)
    if any(each.startswith("__") for each in modules) or not re.fullmatch(r"[A-Z]\w*", name):
        raise DriverError("it is no name of a driver's class: package.module.Class, which begins with a capital letter")
    module = ".".join(modules)
    with _without_input():
        try:
            driver = getattr(importlib.import_module(module), name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a module does when it is imported, ending the program included
            raise DriverError(f"it cannot be found ({str(error) or type(error).__name__})") from error
    if not isinstance(driver, type) or not (issubclass(driver, Instrument) or is_pymeasure(driver)):
        raise DriverError("it is no QCoDeS instrument, and none of PyMeasure")
    if not _within(driver.__module__, allowed().values()):
        raise DriverError(f"its class is defined in {driver.__module__}, which is none of the drivers of {home}")
    return driver


def is_ours(driver: type) -> bool:
    """Whether a driver is one of this package, which gets its sessions from `instruments.wire.sessions`."""
    return _within(driver.__module__, ["instruments"])


def is_pymeasure(driver: type) -> bool:
    """Whether a class is an instrument of PyMeasure, found out without importing that."""
    return any((each.__module__, each.__qualname__) == _PYMEASURE for each in driver.__mro__)


def _home(dotted: str) -> str:
    """The place of drivers in which a name lies."""
    known = allowed()
    for package, home in known.items():
        if _within(dotted, [home]):
            return home
        if package == dotted.partition(".")[0] and package == "instruments":
            break
    if dotted.partition(".")[0] in sys.stdlib_module_names:
        raise DriverError("Python's own library has no instruments; give the class of a driver")
    where = f" or {file}" if (file := settings_file()) is not None else ""
    raise DriverError(
        f"it is in none of the packages whose drivers are imported ({', '.join(known.values())}): importing runs what "
        f"is in it. If you trust it, give --allow {dotted.partition('.')[0]}{where and f', or put that into {file}'}"
    )


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@contextlib.contextmanager
def _without_input() -> Iterator[None]:
    """A module that asks for something when it is imported gets nothing, rather than to wait for ever."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:  # noqa: PTH123 - a device
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before
