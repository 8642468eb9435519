"""Instruments that are not ours, in a station of ours: drivers of QCoDeS, its contributors, PyMeasure, and the user.

Their connections are our sessions (`instruments.foreign.held_visa`), so they are held by the broker, switched off in
their turn, in the traffic and in a replay, like everything else in a station.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qcodes.instrument import Instrument, IPInstrument, VisaInstrument

from instruments.foreign.driver_packages import DRIVERS, is_pymeasure
from instruments.foreign.held_visa import HeldConnection, HeldVisaLibrary, visa_library_to
from instruments.foreign.off_rules import KEY, NONE, OffRule, OffRuleError, off_rule
from instruments.foreign.own_connections import leading_to, watch
from instruments.roles.interfaces import IdleMode, InstrumentError, LinkError
from instruments.roles.off_recipe import Stage
from instruments.wire.transports import BACKENDS

_BACKEND_KEYS = ("visalib", "visa_library")
_FORBIDDEN = re.compile(r"(?i)resource|adapter|pyvisa_sim_file|.*dll.*|lib(rary)?_?(path|file|name)")
_FILE = re.compile(r"(?i).*\.(dll|so|dylib)(\.\d+)*")

_log = logging.getLogger(__name__)


class HeldDriverError(ValueError):
    """An instrument cannot be in a station; the message names the key of the file and says why."""


@dataclass(frozen=True)
class Held:
    """What is known of an instrument that is not ours before it is connected.

    Attributes
    ----------
    name, driver
        In the station, and its class.
    wire
        How it is reached: ``visa``, ``ip``, ``own`` (by `instruments.wire.sessions`), or ``none``.
    address
        Where.
    backend
        PyVISA back end.
    rule
        How it is switched off; None if it has no output, or does that itself (``own``).
    keywords
        Further arguments of the class.
    """

    name: str
    driver: type
    wire: str
    address: str
    backend: str
    rule: OffRule | None
    keywords: dict[str, Any]

    def __str__(self) -> str:
        how = f"switched off by {self.rule}" if self.rule is not None else "has no output"
        if self.rule is None and self.wire == "own":
            how = "made safe by its driver"
        where = f" at {self.address}" if self.address else ""
        return f"{self.name}: {self.driver.__name__} of {self.driver.__module__.partition('.')[0]}{where}; {how}"


def split_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], Any, str]:
    """The driver's own settings, what is said of switching off, and the back end.

    Raises
    ------
    HeldDriverError
        A setting would have the driver open something itself.
    """
    own, backend = dict(settings), BACKENDS[0]
    for key, value in settings.items():
        if key in _BACKEND_KEYS:
            if value not in (None, *BACKENDS):
                raise HeldDriverError(f"{key}: {value!r} is none of {', '.join(BACKENDS)}; a file is not loaded")
            backend = own.pop(key) or backend
        elif _FORBIDDEN.fullmatch(key) or (isinstance(value, str) and _FILE.fullmatch(value.strip())):
            raise HeldDriverError(
                f"{key}: a station file names no library and no other way to an instrument: what is opened that way "
                "cannot be held by the broker. Take it out"
            )
    metadata = own.get("metadata")
    said = None
    if isinstance(metadata, Mapping) and KEY in metadata:
        said = metadata[KEY]
        own["metadata"] = {key: value for key, value in metadata.items() if key != KEY}
        if not own["metadata"]:
            del own["metadata"]
    return own, said, backend


def held_driver(name: str, driver: type, said: Any) -> tuple[str, OffRule | None]:
    """How an instrument is reached and how it is switched off.

    Raises
    ------
    HeldDriverError
        It cannot be held, or it is not known how it is switched off.
    """
    wire = _wire_of(driver)
    if wire == "own" and callable(getattr(driver, "safe", None)) and said is None:
        return wire, None
    if wire in ("own", "none") and said != NONE:
        raise HeldDriverError(
            f"{driver.__name__} cannot be held by the broker: it speaks neither VISA nor IP, so nobody could switch it "
            "off when the program is gone. Use a driver that does; if it has no wire and no output, write "
            f"init: {{metadata: {{{KEY}: {NONE}}}}}"
        )
    try:
        return wire, off_rule(driver, said)
    except OffRuleError as error:
        raise HeldDriverError(f"init.metadata.{error}" if str(error).startswith(KEY) else str(error)) from error


def _wire_of(driver: type) -> str:
    if is_pymeasure(driver) or issubclass(driver, VisaInstrument):
        return "visa"
    if issubclass(driver, IPInstrument):
        return "ip"
    return "none" if driver.__module__.startswith(("qcodes.", "qcodes_contrib_drivers.")) else "own"


@dataclass
class Output:
    """What an instrument that is not ours can have on, to be switched off in its turn; fills `order.Rests`.

    Attributes
    ----------
    instrument
        As QCoDeS has it.
    connections
        Those that the driver has open.
    unwatch
        Ends the watch over what the driver opens by itself.
    """

    held: Held
    instrument: Instrument | None = None
    connections: Callable[[], list[HeldConnection]] = field(default=list)
    unwatch: Callable[[], None] = lambda: None

    @property
    def stage(self) -> Stage:
        """When it is switched off."""
        return Stage.SOURCE if self.held.rule is None else self.held.rule.recipe.stage

    def idle(self, mode: IdleMode = "hard_ground") -> None:
        """Switch it off, read back; it has no other rest."""
        self.safe()

    def safe(self) -> None:
        """Switch it off, read back.

        Raises
        ------
        InstrumentError
            It is not known to be off; the message names it.
        """
        if self.held.rule is None:
            safe = getattr(self.instrument, "safe", None)
            if self.held.wire == "own" and callable(safe):
                safe()
            return
        try:
            for connection in self.connections()[:1] or [self._another()]:
                connection.switch_off()
        except InstrumentError as error:
            raise LinkError(f"{self.held.name} is not known to be off: {error}") from error
        if self.instrument is not None:
            self.instrument.invalidate_cache()  # what the driver remembers of its output is no longer so

    def _another(self) -> HeldConnection:
        """The driver has closed its own."""
        return HeldConnection(
            self.held.name, *_leads_to(self.held), None if self.held.rule is None else self.held.rule.recipe
        )


def _leads_to(held: Held) -> tuple[str, str, dict[str, Any]]:
    if held.wire == "ip":
        return "port", held.address, {"baudrate": 9600, "timeout": 5.0}
    return "visa", held.address, {"backend": held.backend, "terminator": "", "baudrate": None, "timeout": 5.0}


def make_held(name: str, held: Held, output: Output) -> Instrument:
    """Make the instrument; QCoDeS's station calls this in place of the class.

    Raises
    ------
    LinkError
        Whatever went wrong, with the name of the instrument.
    """
    recipe = None if held.rule is None else held.rule.recipe
    library = visa_library_to(name, held.address if held.wire == "visa" else "", held.backend, recipe)
    output.unwatch = watch(_package(held.driver))
    said = io.StringIO()
    try:
        with leading_to(library), contextlib.redirect_stdout(said):  # what it prints is no part of our output
            made = _made(name, held, output, library)
    except (KeyboardInterrupt, InstrumentError):
        raise
    except BaseException as error:  # whatever a driver of others does
        why = f"{type(error).__name__}: {error}"
        raise LinkError(f"{held.driver.__name__} cannot be connected ({why})") from error
    finally:
        if said.getvalue().strip():
            _log.info("%s", said.getvalue().strip())
    output.instrument = made
    return made


def _package(driver: type) -> str:
    """What belongs to a driver: the rest of its package, but not all of QCoDeS or PyMeasure."""
    package = driver.__module__.partition(".")[0]
    return DRIVERS.get(package, package)


def _made(name: str, held: Held, output: Output, library: HeldVisaLibrary) -> Instrument:
    if is_pymeasure(held.driver):
        output.connections = lambda: library.connections
        return PyMeasureInstrument(name, held.driver(held.address, **held.keywords))
    if held.wire == "ip":
        connection = HeldConnection(name, *_leads_to(held), library.recipe)
        output.connections = lambda: [connection]
        return _held_ip(held.driver, connection)(name, **held.keywords)
    output.connections = lambda: library.connections
    return held.driver(name, **held.keywords)


class PyMeasureInstrument(Instrument):
    """An instrument of PyMeasure as one of a QCoDeS station; all that it has is here, under the same names.

    Attributes
    ----------
    driver
        The instrument as PyMeasure made it.
    """

    delegate_attr_objects: ClassVar[list[str]] = ["driver"]

    def __init__(self, name: str, driver: Any) -> None:
        self.driver = driver
        super().__init__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        driver = self.__dict__.get("driver")
        if driver is not None and hasattr(type(driver), name) and not hasattr(Instrument, name):
            setattr(driver, name, value)
        else:
            super().__setattr__(name, value)

    def get_idn(self) -> dict[str, str | None]:
        """What PyMeasure calls it; nothing is asked."""
        return {"vendor": None, "model": str(self.driver.name), "serial": None, "firmware": None}

    def close(self) -> None:
        """Close the connection; PyMeasure's own `shutdown` would send something."""
        self.driver.adapter.close()
        super().close()


def _held_ip(driver: Any, connection: HeldConnection) -> Any:
    """The class, with our connection in place of its socket."""

    class Reached(driver):
        def _connect(self) -> None:
            connection.open()
            self._socket = _Socket(connection)
            self.set_timeout(self._timeout)

        def close(self) -> None:
            super().close()
            connection.close()

    Reached.__name__, Reached.__qualname__, Reached.__module__ = driver.__name__, driver.__qualname__, driver.__module__
    return Reached


class _Socket:
    """What `IPInstrument` asks of a socket; the connection stays until the instrument is closed."""

    def __init__(self, connection: HeldConnection) -> None:
        self._connection, self._timeout, self._rest = connection, connection.timeout, bytearray()

    def settimeout(self, seconds: float) -> None:
        """Seconds allowed for an answer."""
        self._timeout = float(seconds)

    def sendall(self, data: bytes) -> None:
        """Send bytes."""
        self._connection.write(data)

    def recv(self, size: int) -> bytes:
        """Whatever has come."""
        if not self._rest:
            self._rest += self._connection.read(b"", self._timeout)
        piece = bytes(self._rest[:size])
        del self._rest[:size]
        return piece

    def shutdown(self, how: int) -> None:
        """Nothing: what is held is let go of by `close` of the instrument."""

    def close(self) -> None:
        """Nothing: what is held is let go of by `close` of the instrument."""
