"""The station file: one YAML file in QCoDeS's own format, checked before any connection is opened.

An instrument fills a role by its name: ``prober`` and ``array`` are the two that every run needs. (QCoDeS's schema
admits no section of ours beside ``instruments``, and so the file stays one that plain QCoDeS loads without a warning.)
What stands under ``init`` are the driver's own settings, where quantities may be written as ``2 s`` or ``900 mV``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from qcodes.instrument import Instrument
from qcodes.station import Station as QcodesStation

from instruments import drivers
from instruments.broker.client import BrokerClient
from instruments.foreign.driver_packages import DriverError, find_driver, is_ours, is_pymeasure
from instruments.foreign.held_drivers import Held, HeldDriverError, Output, held_driver, make_held, split_settings
from instruments.plain_yaml import PlainYamlError, read_yaml
from instruments.roles import order
from instruments.roles.interfaces import ArrayTester, Clock, FieldSource, InstrumentError, LinkError, Prober
from instruments.roles.off_recipe import Stage
from instruments.roles.quantities import Dimension, Number, Whole
from instruments.wire.sessions import through

NEEDED: dict[str, type] = {"prober": Prober, "array": ArrayTester}
"""The roles that a station must fill, by the name that the instrument carries in the file."""

_OF_QCODES = ("parameters", "add_parameters", "enable_forced_reconnect")  # what it does by itself with an entry

ROLES: dict[str, type] = NEEDED | {"magnet": FieldSource, "clock": Clock}
"""All roles that go by a name."""


class StationFileError(InstrumentError, ValueError):
    """The station file is wrong; the message says in which file, at which key, and what is allowed there."""


class InstrumentEntry(BaseModel):
    """One instrument of the file, with the keys that QCoDeS knows.

    How one that is not ours is switched off stands in its metadata (`instruments.foreign.off_rules`).
    """

    model_config = ConfigDict(extra="forbid")

    type: str = Field(pattern=r"^\w+(\.\w+)+$")
    address: str | None = None
    port: int | None = None
    enable_forced_reconnect: bool | None = None
    init: dict[str, Any] | None = None
    parameters: dict[str, dict[str, Any]] | None = None
    add_parameters: dict[str, dict[str, Any]] | None = None

    def settings(self) -> dict[str, Any]:
        """Keyword arguments for the driver, as the file has them."""
        own = {"address": self.address, "port": self.port}
        return (self.init or {}) | {key: value for key, value in own.items() if value is not None}


class StationFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    instruments: dict[str, InstrumentEntry]


class Station(QcodesStation):
    """A QCoDeS station whose `prober` and `array` fill the roles; a context manager that leaves it safe.

    Attributes
    ----------
    broker
        What holds the connections, if it is not this process.
    """

    broker: BrokerClient | None = None
    _released = False
    _fixed = False  # whether the file was read

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.outputs: list[Output] = []  # of instruments that are not ours
        super().__init__(*arguments, **named)

    def load_held(self, held: Held) -> None:
        """Connect an instrument that is not ours, with the parameters that the file gives it."""
        entry, output = self._instrument_config[held.name], Output(held)
        everything = self._instrument_config
        ours = {"type": f"{make_held.__module__}.{make_held.__qualname__}"}
        self._instrument_config = {held.name: {**ours, **{k: entry[k] for k in _OF_QCODES if k in entry}}}
        self.outputs.append(output)
        try:
            self.load_instrument(held.name, update_snapshot=False, held=held, output=output)
        finally:
            self._instrument_config = everything

    def load_config_files(self, *filenames: str) -> None:
        """Read a file as it is read everywhere here, not in the locale's encoding; none that nobody named.

        Once, not again for each instrument: what was checked is what is used.
        """
        if not self._fixed:
            for each in filenames:
                self.load_config(json.dumps(_read(Path(each)), ensure_ascii=False))
        self._fixed = True

    @property
    def prober(self) -> Prober:
        """The instrument that steps dies."""
        return cast(Prober, self.components["prober"])

    @property
    def array(self) -> ArrayTester:
        """The instrument that reads and pulses the array."""
        return cast(ArrayTester, self.components["array"])

    def elapsed(self) -> float | None:
        """Station time (s) by the instrument called ``clock``; None where there is none."""
        clock = self.components.get("clock")
        return cast(Clock, clock).elapsed() if clock is not None else None

    def parts(self) -> order.Parts:
        """What has to be made safe, as `instruments.roles.order` wants it."""
        first = sorted((each for each in self.outputs if each.stage < Stage.PROBER), key=lambda each: each.stage)
        testers = [each for each in self.components.values() if isinstance(each, ArrayTester)]
        last = [each for each in self.outputs if each.stage > Stage.PROBER]
        field = cast("FieldSource | None", self.components.get("magnet"))
        return order.Parts([*first, *testers], self.prober, field, last)

    def safe(self, reason: str = "asked to") -> None:
        """Ground every source, lift the needles off, take the field down; each is tried, whatever became of the others.

        Where a broker holds the connections, it does that, and whoever waits for an answer is cut off; the station can
        only be closed afterwards.

        Raises
        ------
        InstrumentError
            Something could not be made safe; the message names it.
        """
        if self.broker is None:
            _report(order.abort(self.parts()))
            return
        self._released = True
        _report([f"{each.name}: {each.fault}" for each in self.broker.make_safe(reason) if each.fault])

    def close(self) -> None:
        """Bring every source to rest (stop it where that fails), lift the needles off, then close all connections.

        Raises
        ------
        InstrumentError
            Something could not be made safe or closed; everything else was.
        """
        faults: list[str] = []
        released = self._released or (self.broker is not None and bool(self.broker.released()))
        touched = "prober" in self.components and not released
        if touched and order.attempt("leave", lambda: order.leave(self.parts())):
            faults = order.abort(self.parts())
        for name, component in list(self.components.items()):
            if isinstance(component, Instrument):
                faults.append(order.attempt(f"{name}: close", lambda each=component: self._remove(each)))  # type: ignore[misc]
        self._forget_outputs()
        _report([fault for fault in faults if fault])

    def forget(self) -> None:
        """Close the drivers and leave everything as it is: for a station that somebody else has made safe, or none."""
        for component in list(self.components.values()):
            if isinstance(component, Instrument):
                self._remove(component)
        self._forget_outputs()

    def _forget_outputs(self) -> None:
        while self.outputs:
            self.outputs.pop().unwatch()

    def _remove(self, component: Instrument) -> None:
        self.close_and_remove_instrument(component)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            self.close()
        except InstrumentError as fault:
            if error is None:
                raise
            error.add_note(str(fault))


def load_station(path: str | os.PathLike[str], broker: BrokerClient | None = None) -> Station:
    """Connect to every instrument of a station file.

    Parameters
    ----------
    path
        The YAML file.
    broker
        The process that holds the connections and makes the station safe when this one no longer can; without one
        this process holds them itself.

    Returns
    -------
    The station, its instruments connected and otherwise untouched: no output state is changed, no chuck moved.

    Raises
    ------
    StationFileError
        The file is wrong; nothing was connected.
    LinkError
        An instrument does not answer; the ones connected before it are closed again.
    """
    path = Path(path)
    checked = _checked(path)
    station = _configured(path)
    station.broker = broker
    try:
        with nullcontext() if broker is None else through(broker):
            for name, each in checked.items():
                if isinstance(each, Held):
                    _load_held(station, path, each)
                else:
                    station.load_instrument(name, update_snapshot=False, **each)
    except BaseException:
        station.forget()
        raise
    return station


def _load_held(station: Station, path: Path, held: Held) -> None:
    """Connect an instrument that is not ours; whatever goes wrong is said with its name and its file."""
    try:
        station.load_held(held)
    except InstrumentError as error:
        kind = LinkError if isinstance(error, LinkError) else type(error)
        raise kind(f"{path}: instruments.{held.name}: {error}") from error
    except Exception as error:  # a parameter of the file that the driver does not take
        raise LinkError(f"{path}: instruments.{held.name}: {type(error).__name__}: {error}") from error


def write_station(
    path: str | os.PathLike[str], prober_address: str, array_address: str, *, clock: Path | None = None
) -> Path:
    """Write the station file of a SENTIO prober and a framed board.

    Parameters
    ----------
    path
        The file to write; replaced if it exists.
    prober_address
        VISA resource, e.g. ``TCPIP::127.0.0.1::35555::SOCKET``.
    array_address
        Serial port or ``socket://host:port``.
    clock
        File in which the station keeps its own time, if it does.
    """
    path = Path(path)
    content = {
        "instruments": {
            "prober": {"type": "instruments.drivers.sentio.Sentio", "address": prober_address},
            "array": {"type": "instruments.drivers.board.FramedBoard", "address": array_address},
        }
    }
    if clock is not None:
        content["instruments"]["clock"] = {"type": "instruments.drivers.clock.FileClock", "address": str(clock)}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def write_served_station(
    path: str | os.PathLike[str], addresses: Mapping[str, Any], *, clock: Path | None = None
) -> Path:
    """Write the station file for what a station says of itself when it serves: with a board, or with a rack.

    Parameters
    ----------
    path
        The file to write; replaced if it exists.
    addresses
        Address of each instrument by its name; of a rack also what is plugged in where, ``rack``.
    clock
        File in which the station keeps its own time, if it does.
    """
    if "rack" not in addresses:
        return write_station(path, addresses["prober"], addresses["board"], clock=clock)
    wired = addresses["rack"]
    return write_rack_station(
        path,
        addresses,
        outputs=wired["rows"],
        rows=wired["die_rows"],
        columns=wired["die_columns"],
        series_resistance=wired["series_resistance"],
        clock=clock,
    )


def write_rack_station(
    path: str | os.PathLike[str],
    addresses: Mapping[str, Any],
    *,
    outputs: Mapping[str, str],
    rows: Sequence[str],
    columns: Sequence[str],
    pulse_limit: float = 2.1,
    series_resistance: float = 0.0,
    clock: Path | None = None,
) -> Path:
    """Write the station file of a SENTIO prober and a rack: Keithley 2602B, Keysight 33512B, Keithley 707B.

    Parameters
    ----------
    path
        The file to write; replaced if it exists.
    addresses
        VISA resource of ``prober``, ``smu``, ``pulser`` and ``matrix``.
    outputs
        What is plugged into the rows of the matrix, ``{"A": "smu.a", ...}``.
    rows, columns
        Matrix column of each line of the die, ``"101"``.
    pulse_limit
        Largest pulse (V, either sign). By default the lower cap of the TiO2 devices of arXiv:2305.18495.
    series_resistance
        Resistor in each line of the generator (Ohm).
    clock
        File in which the station keeps its own time, if it does.
    """
    path = Path(path)
    row_of = {output: row for row, output in outputs.items()}
    wiring = {
        "smu_rows": [row_of["smu.a"], row_of["smu.b"]],
        "pulser_rows": [row_of["pulser.1"], row_of["pulser.2"]],
        "ground_row": row_of["ground"],
        "rows": list(rows),
        "columns": list(columns),
    }
    parts: dict[str, dict[str, Any]] = {
        "prober": {"type": "instruments.drivers.sentio.Sentio"},
        "smu": {"type": "instruments.drivers.keithley_2600.Keithley2602BSmu"},
        "pulser": {
            "type": "instruments.drivers.keysight_33500.Keysight33512BPulser",
            "init": {"series_resistance": series_resistance},
        },
        "matrix": {"type": "instruments.drivers.keithley_707.Keithley707", "init": {"outputs": dict(outputs)}},
    }
    content: dict[str, Any] = {name: part | {"address": addresses[name]} for name, part in parts.items()}
    names = {each: each for each in ("smu", "pulser", "matrix")}
    content["array"] = {"type": "instruments.drivers.rack.Rack", "init": names | wiring | {"pulse_limit": pulse_limit}}
    if clock is not None:
        content["clock"] = {"type": "instruments.drivers.clock.FileClock", "address": str(clock)}
    path.write_text(yaml.safe_dump({"instruments": content}, sort_keys=False), encoding="utf-8")
    return path


def _configured(path: Path) -> Station:
    """The station without instruments; QCoDeS reads the file by itself and keeps it in its snapshot."""
    try:
        return Station(config_file=str(path), default=False, use_monitor=False, update_snapshot=False)
    except Exception as error:
        raise StationFileError(f"{path}: QCoDeS cannot load it: {error}") from error


def check_station(path: Path) -> dict[str, dict[str, Any]]:
    """Checked settings of each instrument of a file."""
    return {name: each.keywords if isinstance(each, Held) else each for name, each in _checked(path).items()}


def instruments_not_ours(path: Path) -> list[str]:
    """What the instruments of a file are that are not ours, and how each is switched off; a line for each."""
    return [str(each) for each in _checked(path).values() if isinstance(each, Held)]


def understood(path: Path) -> list[str]:
    """Every quantity of each instrument as it was read, with its unit, defaults among them; a line for each."""
    settings, lines = check_station(path), []
    for name, entry in StationFile.model_validate(_read(path)).instruments.items():
        fields = _settings_model(find_driver(entry.type)).model_fields
        texts = []
        for key, field in fields.items():
            kind, value = _dimension(field), settings[name].get(key, field.default)
            if kind is not None and isinstance(value, int | float):
                texts.append(f"{key} {kind.shown(value)}")
        if texts:
            lines.append(f"{name}: {', '.join(texts)}")
    return lines


def _dimension(field: FieldInfo) -> Dimension | None:
    """What a setting is measured in, None for one that is no quantity."""
    hints = (field.annotation, *typing.get_args(field.annotation))
    declared = [*field.metadata, *(each for hint in hints for each in getattr(hint, "__metadata__", ()))]
    return next((each for each in declared if isinstance(each, Dimension)), None)


def _checked(path: Path) -> dict[str, dict[str, Any] | Held]:
    """Checked settings of each instrument of a file; of one that is not ours with what else is known of it."""
    try:
        file = StationFile.model_validate(_read(path))
    except ValidationError as error:
        raise StationFileError(_explain(path, error, "", _model_of_depth)) from error
    missing = [role for role in NEEDED if role not in file.instruments]
    if missing:
        raise StationFileError(
            f"{path}: instruments: nothing is called {' or '.join(missing)}; a station needs {' and '.join(NEEDED)}, "
            f"this file has {', '.join(file.instruments) or 'none'}"
        )
    return {name: _check_instrument(path, name, entry) for name, entry in file.instruments.items()}


def _model_of_depth(depth: int) -> type[BaseModel]:
    return StationFile if depth == 1 else InstrumentEntry


def _read(path: Path) -> object:
    try:
        return read_yaml(path)
    except PlainYamlError as error:
        raise StationFileError(str(error)) from error


def _check_instrument(path: Path, name: str, entry: InstrumentEntry) -> dict[str, Any] | Held:
    at = f"{path}: instruments.{name}"
    try:
        driver = find_driver(entry.type)
    except DriverError as error:
        raise StationFileError(
            f"{at}.type: {entry.type}: {error}. Drivers that come with this software: "
            f"{', '.join(_shipped(ROLES.get(name, Instrument)))}"
        ) from error
    role = ROLES.get(name)
    if role is not None and not issubclass(driver, role):
        raise StationFileError(
            f"{at}.type: {entry.type} does not fill the role {role.__name__}; "
            f"choose one of: {', '.join(_shipped(role))}"
        )
    if is_ours(driver):
        return _validated(path, name, driver, entry.settings())
    try:
        settings, said, backend = split_settings(entry.settings())
        wire, rule = held_driver(name, driver, said)
    except HeldDriverError as error:
        raise StationFileError(f"{at}: {error}") from error
    if is_pymeasure(driver):
        settings["adapter"] = settings.pop("address", None)
    keywords = _validated(path, name, driver, {key: each for key, each in settings.items() if each is not None})
    address = str(keywords.pop("adapter", None) or keywords.get("address") or "")
    if wire == "ip":
        address = f"socket://{address}:{keywords.get('port')}"
    if wire == "visa" and not address:
        raise StationFileError(f"{at}.address: is missing; give the VISA resource, e.g. GPIB0::24::INSTR")
    return Held(name, driver, wire, address, backend, rule, keywords)


def _validated(path: Path, name: str, driver: type, settings: dict[str, Any]) -> dict[str, Any]:
    model = _settings_model(driver)
    try:
        checked = model.model_validate(settings)
    except ValidationError as error:
        raise StationFileError(_explain(path, error, f"instruments.{name}.init.", lambda _: model)) from error
    return checked.model_dump(exclude_unset=True)


def _shipped(kind: type) -> list[str]:
    """Dotted names of the drivers in this package that are of a kind or fill a role."""
    found = []
    for module in pkgutil.iter_modules(drivers.__path__, "instruments.drivers."):
        for name, each in vars(importlib.import_module(module.name)).items():
            own = isinstance(each, type) and issubclass(each, Instrument) and each.__module__ == module.name
            if own and issubclass(each, kind):
                found.append(f"{module.name}.{name}")
    return found


@functools.cache
def _settings_model(driver: type) -> type[BaseModel]:
    """What a driver's constructor accepts, as a model: types, quantities and defaults are those of its signature."""
    constructor: Any = driver.__init__  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except NameError:  # the driver imports its types for type checkers only
        hints = {}
    fields: dict[str, Any] = {}
    extra: typing.Literal["allow", "forbid"] = "forbid"
    for each in inspect.signature(constructor).parameters.values():
        if each.name in ("self", "name"):
            continue
        if each.kind is each.VAR_KEYWORD:
            named = typing.get_args(hints.get(each.name))
            if named and hasattr(named[0], "__required_keys__"):  # a TypedDict, of whichever module
                fields |= dict.fromkeys(named[0].__annotations__, (Any, None))
            else:
                extra = "allow"
        elif each.kind is not each.VAR_POSITIONAL:
            hint = _declared(hints.get(each.name, Any))
            fields[each.name] = (hint, ... if each.default is each.empty else each.default)
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True)
    return create_model(f"{driver.__name__} settings", __config__=config, **fields)


def _declared(hint: Any) -> Any:
    """A type with its bare floats and ints read as plain numbers: pydantic takes ``yes`` and infinity for some."""
    if hint in (float, int):
        return Number if hint is float else typing.Annotated[int, Whole()]
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Annotated, typing.Literal) or not parts:
        return hint
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return typing.Union[tuple(map(_declared, parts))]  # noqa: UP007  # of parts known at run time
    if typing.get_origin(hint) in (list, tuple, dict):
        return typing.get_origin(hint)[tuple(map(_declared, parts))]
    return hint


def _explain(path: Path, error: ValidationError, prefix: str, allowed: Callable[[int], type[BaseModel]]) -> str:
    """One line per fault: file, key, what is wrong, what is allowed; `allowed` tells the model at a depth of keys."""
    lines = []
    for fault in error.errors():
        keys = [str(each) for each in fault["loc"]]
        text = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "string_pattern_mismatch":
            text = "write the driver as package.module.Class"
        if fault["type"] == "extra_forbidden":
            text = f"unknown key; allowed: {', '.join(allowed(len(keys)).model_fields)}"
        lines.append(f"{path}: {prefix}{'.'.join(keys) or 'file'}: {text}")
    return "\n".join(lines)


def _report(faults: list[str]) -> None:
    if faults:
        raise InstrumentError("the station is not left as it should be: " + "; ".join(faults))
