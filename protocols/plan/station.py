"""The station that a plan is made for: its limits, its dies and its wires, without opening a connection.

Limits and dies come from an earlier run, or else they are those of a documented board; a station file adds what it
says of its instruments, and is searched for wirings that cannot work.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from analysis.record.record import Record
from instruments import station as station_files
from instruments.board_protocol.caps import BoardCaps, capabilities
from instruments.drivers.keysight_33500 import SOURCE_RESISTANCE
from instruments.drivers.rack import CURRENT_LIMIT, READ_LIMIT, check_wiring, rack_capabilities
from instruments.plain_yaml import parse_yaml
from instruments.roles.interfaces import ArrayCapabilities, CurrentRange, DieSite, InstrumentError
from instruments.roles.quantities import OHM, Whole
from mapping.dies.geometry import MTJ_20K
from mapping.writing.durations import EXCHANGE

#: Dies of the route that is assumed, on a grid of so many columns.
DIES, COLUMNS = 36, 6

#: The board of docs/board_protocol.md with dies of `mapping.dies.geometry.MTJ_20K`; its ranges reach from one cell to a
#: whole line of shorts. Assumed.
DOCUMENTED = {
    "protocol": 1,
    "rows": MTJ_20K.rows,
    "columns": MTJ_20K.columns,
    "kernels": MTJ_20K.kernels,
    "topology": MTJ_20K.to_dict(),
    "dac_lsb": 5.0 / 4096,
    "v_min": -1.65,
    "v_max": 1.65,
    "v_read_max": 0.3,
    "adc_bits": 12,
    "ranges": [{"index": i, "full_scale": full} for i, full in enumerate((100e-6, 250e-6, 500e-6, 1e-3, 2e-3))],
    "width_min": 20e-9,
    "width_max": 1e-3,
    "width_step": 10e-9,
    "count_max": 1000,
    "averages_max": 256,
    "banks": 16,
    "vectors_max": 4096,
    "cell": "2T1R",
    "heartbeat": True,
}

#: Rows and columns of the passive dies that are documented.
PASSIVE = {"tio2-8x8": 8, "tio2-64x64": 64}
#: Ends the name of a lot that a rack drives.
RACK = "@rack"
#: Largest pulse of the documented rack (V): the lower cap of the TiO2 devices of arXiv:2305.18495.
RACK_LIMIT = 2.1


@dataclass(frozen=True)
class Link:
    """What the wire to the board adds to the time at the station; assumed, but for the rate of a serial port.

    Attributes
    ----------
    name
        As the table shows it.
    exchange
        Seconds that a request and its reply wait.
    byte
        Seconds for a byte.
    """

    name: str
    exchange: float
    byte: float

    def time(self, exchanges: int, size: int) -> float:
        """Seconds for so many exchanges of so many bytes in all."""
        return exchanges * self.exchange + size * self.byte


def serial_link(baudrate: int) -> Link:
    """A serial port: ten bits to the byte; two milliseconds for an exchange through a USB converter (assumed)."""
    return Link(f"serial, {baudrate:,} baud", EXCHANGE, 10 / baudrate)


#: Of a serial port whose station file names none: that of `instruments.drivers.board`.
BAUDRATE = 921600
#: A board on the local network: half a millisecond for an exchange and 10 MB/s (assumed).
NETWORK = Link("network", 0.5e-3, 1e-7)
#: Seconds that a command of the prober and its answer wait (assumed).
PROBER_EXCHANGE = 5e-3


@dataclass(frozen=True)
class PlannedStation:
    """What a plan takes a station for.

    Attributes
    ----------
    capabilities, sites
        Of the array tester and the route.
    prober, array
        Identities.
    resistance
        Of an output of the generator that fires the pulses, with what is in its line (Ohm); None: not a rack.
    links
        The wire to the board, or those that are usual where it is not known.
    source
        Where limits and dies come from, in words.
    checked
        Whether a station file was looked at.
    refusals
        Why it cannot work; one text for each fault of the wiring.
    not_ours
        Instruments with drivers of others, and how each is switched off.
    """

    capabilities: ArrayCapabilities
    sites: tuple[DieSite, ...]
    prober: str
    array: str
    resistance: float | None
    links: tuple[Link, ...]
    source: str
    checked: bool
    refusals: tuple[str, ...]
    not_ours: tuple[str, ...] = ()


def planned_station(station: Path | None, like: Path | None, lot: str = "mtj") -> PlannedStation:
    """The station that a run would meet.

    Parameters
    ----------
    station : Path or None
        Station file; checked, never connected.
    like : Path or None
        Folder of an earlier run, whose survey gives limits and dies.
    lot : str
        Kind of die that is assumed without `like`, with ``@rack`` if a rack drives it.

    Raises
    ------
    RecordError
        If there is no record in `like`.
    PlanSourceError
        If that record has no survey, or the kind of die is not known.
    """
    planned = _documented(lot) if like is None else _surveyed(like, lot)
    if station is None:
        return planned
    try:
        settings = station_files.check_station(station)
        not_ours = tuple(station_files.instruments_not_ours(station))
        return _wired(replace(planned, checked=True, not_ours=not_ours), station, settings, lot)
    except InstrumentError as error:
        return replace(planned, checked=True, refusals=(str(error),))


class PlanSourceError(ValueError):
    """The earlier run does not say what station it was done at."""


def _documented(lot: str) -> PlannedStation:
    kind, rack = lot.removesuffix(RACK), lot.endswith(RACK)
    if kind not in ("mtj", *PASSIVE) or (rack and kind == "mtj"):
        known = ", ".join(("mtj", *PASSIVE, *(f"{each}{RACK}" for each in PASSIVE)))
        raise PlanSourceError(
            f"a plan knows the dies {known}, not {lot!r}; choose one with --lot, or an earlier run with --like"
        )
    if rack:
        caps = rack_capabilities("rack", PASSIVE[kind], PASSIVE[kind], RACK_LIMIT, READ_LIMIT, CURRENT_LIMIT)
        what, array = "a rack as in docs/rack.md", "a rack as documented"
    else:
        caps = _passive_board(PASSIVE[kind]) if kind in PASSIVE else capabilities(BoardCaps.model_validate(DOCUMENTED))
        what, array = "a board as in docs/board_protocol.md", "a board as documented"
    return PlannedStation(
        capabilities=caps,
        sites=tuple(DieSite(number % COLUMNS, number // COLUMNS) for number in range(DIES)),
        prober="a prober",
        array=array,
        resistance=SOURCE_RESISTANCE if rack else None,
        links=(NETWORK,) if rack else (serial_link(BAUDRATE), NETWORK),
        source=f"assumed: {what}, {DIES} dies of kind {kind if kind in PASSIVE else 'mtj-20k'}",
        checked=False,
        refusals=(),
    )


def _passive_board(lines: int) -> ArrayCapabilities:
    """The documented board with passive dies of so many rows and columns: larger pulses, ranges for a whole line."""
    gated = capabilities(BoardCaps.model_validate(DOCUMENTED))
    ranges = (*gated.ranges, CurrentRange(5, 5e-3), CurrentRange(6, 20e-3))
    one: dict[str, Any] = {"kernels": 1, "blocks": 1, "kernel_block": (0,), "kernel_row": (0,), "kernel_column": (0,)}
    size: dict[str, Any] = {"rows": lines, "columns": lines, "block_rows": lines, "block_columns": lines}
    schemes = ("V/2", "V/3", "grounded", "floating")
    return replace(gated, **one, **size, v_min=-2.5, v_max=2.5, ranges=ranges, cell="1R", schemes=schemes)


def _surveyed(folder: Path, lot: str) -> PlannedStation:
    """Limits and dies as an earlier run found them; what its survey does not hold is that of a documented station."""
    with Record.open(folder, create=False, write=False) as record:
        survey, stations = record.latest_with("", "sites"), record.events("station")
    if survey is None:
        raise PlanSourceError(f"the record in {folder} has no survey of a station; choose a run that began at one")
    attrs, instruments = survey.attrs, _recorded(stations)
    known: dict[str, Any] = {**attrs["geometry"], **attrs["limits"]}
    known |= {name: attrs[name] for name in ("cell", "schemes") if name in attrs}  # older ones are of cells with gates
    names = ArrayCapabilities.__dataclass_fields__
    found: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items() if name in names}
    rack = _is_rack(instruments)
    assumed = _documented(("tio2-8x8@rack" if rack else "tio2-8x8") if known.get("schemes") else "mtj")
    return replace(
        assumed,
        capabilities=replace(assumed.capabilities, **found),
        sites=_sites(survey),
        prober=attrs["prober"],
        array=attrs["array"],
        resistance=_resistance(instruments) if rack else None,
        links=_links_of(instruments.get("array", {})) or assumed.links,
        source=f"survey of {folder} ({survey.sizes['die']} dies); current ranges and pulse widths assumed"
        + ("" if "cell" in attrs else "; it is older and does not say whether cells have gates: taken for such"),
    )


def _sites(survey: xr.Dataset) -> tuple[DieSite, ...]:
    return tuple(DieSite(int(column), int(row)) for column, row in survey["sites"].values)


def _recorded(stations: list[dict[str, Any]]) -> dict[str, Any]:
    """What the last station file of a record says of its instruments; empty if it cannot be read any more."""
    try:
        return {
            name: dict(each)
            for name, each in parse_yaml(stations[-1]["data"]["station"], "its station file")["instruments"].items()
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}


def _is_rack(instruments: dict[str, Any]) -> bool:
    return str(instruments.get("array", {}).get("type", "")).endswith(".Rack")


def _resistance(instruments: dict[str, Any]) -> float:
    """Of the generator of a rack, with what is in its line (Ohm), by a station file that was read as YAML."""
    rack = instruments["array"].get("init") or {}
    pulser = instruments.get(str(rack.get("pulser")), {}).get("init") or {}
    try:
        return SOURCE_RESISTANCE + OHM.read(pulser.get("series_resistance", 0.0))
    except ValueError as error:
        raise PlanSourceError(f"the station file in the record: series_resistance: {error}") from error


def _links_of(array: dict[str, Any]) -> tuple[Link, ...]:
    """The wire to an array tester with these settings; none if they do not tell."""
    if not array.get("address"):
        return ()
    if ":" in wire_of(str(array["address"])):
        return (NETWORK,)
    settings = array | (array.get("init") or {})
    try:
        return (serial_link(Whole(1).read(settings.get("baudrate", BAUDRATE))),)
    except ValueError as error:
        raise PlanSourceError(f"the station file in the record: baudrate: {error}") from error


def _wired(planned: PlannedStation, path: Path, settings: dict[str, dict[str, Any]], lot: str) -> PlannedStation:
    """The station with what its file says of limits and wires."""
    array = settings["array"]
    if "matrix" in array:
        return _wired_rack(planned, path, settings)
    if planned.resistance is not None:  # a rack was assumed, this is a board
        board = _documented(lot.removesuffix(RACK))
        planned = replace(planned, capabilities=board.capabilities, array=board.array, resistance=None,
                          links=board.links, source=board.source)  # fmt: skip
    caps = planned.capabilities
    given = array.get("pulse_limit")
    limit = math.inf if given is None else abs(float(given))
    return replace(
        planned,
        capabilities=replace(caps, v_min=max(caps.v_min, -limit), v_max=min(caps.v_max, limit)),
        links=_links_of(array) or planned.links,
        refusals=shared_wires(path, settings),
    )


def _wired_rack(planned: PlannedStation, path: Path, settings: dict[str, dict[str, Any]]) -> PlannedStation:
    """A rack as its file has it; no instrument of it is asked."""
    array = settings["array"]
    outputs = [*array.get("smu_rows", "AB"), *array.get("pulser_rows", "CD"), array.get("ground_row", "H")]
    check_wiring("array", [*array["rows"], *array["columns"]], outputs)
    limits = array["pulse_limit"], array.get("read_limit", READ_LIMIT), array.get("current_limit", CURRENT_LIMIT)
    caps = rack_capabilities("array", len(array["rows"]), len(array["columns"]), *limits)
    missing = [f"{part} {array[part]!r}" for part in ("smu", "pulser", "matrix") if array[part] not in settings]
    lost = tuple(f"{path}: instruments.array: there is no {each}; list it above array" for each in missing)
    series = settings.get(array["pulser"], {}).get("series_resistance", 0.0)
    return replace(
        planned,
        capabilities=caps,
        array=f"the rack of {path}",
        resistance=SOURCE_RESISTANCE + float(series),
        links=(NETWORK,),
        source=f"rack of {path}, {len(planned.sites)} dies",
        refusals=(*shared_wires(path, settings), *lost),
    )


def shared_wires(path: Path, settings: dict[str, dict[str, Any]]) -> tuple[str, ...]:
    """One text for every wire that two instruments of a station file claim.

    A port has one owner: the second to open it would be refused, or take the other's answers for its own.
    """
    claims: dict[str, list[str]] = {}
    for name, keywords in settings.items():
        if keywords.get("address"):
            claims.setdefault(wire_of(str(keywords["address"]), keywords.get("port")), []).append(name)
    return tuple(
        f"{path}: instruments.{' and instruments.'.join(names)} have one address, {wire}; each needs its own"
        for wire, names in claims.items()
        if len(names) > 1
    )


def wire_of(address: str, port: int | None = None) -> str:
    """What an address stands for, however it is written: ``host:port`` or the name of a serial port."""
    text = address.strip().lower()
    for pattern in (r"socket://([^/:]+):(\d+).*", r"tcpip\d*::([^:]+)::(\d+)::socket"):
        found = re.fullmatch(pattern, text)
        if found is not None:
            return f"{found[1]}:{found[2]}"
    serial = re.fullmatch(r"asrl(.+?)(?:::instr)?", text)
    if serial is not None:
        return f"com{serial[1]}" if serial[1].isdigit() else serial[1]
    return text if port is None else f"{text}:{port}"
