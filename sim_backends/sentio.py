"""A virtual MPI SENTIO prober: the remote command language in front of `prober.Prober`.

A request is a command word, a blank and arguments separated by commas; a line ends with LF. A reply is
``N,id,text``: the low ten bits of N are an error code, the bits above flags (1 last die, 2 last subsite); id is the
number of an asynchronous command, 0 otherwise. Commands that begin with ``*`` answer in plain text or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sim_backends.prober import (
    EXECUTION,
    NOT_ALLOWED,
    OUT_OF_BOUNDS,
    PARAMETER,
    Prober,
    ProberFault,
    SteppingMode,
)
from sim_backends.wafer_map import PRIORITIES, START_POINTS, Site

NO_HANDLER, UNKNOWN, FORMAT, COUNT = 3, 4, 5, 7
END_OF_LIST = 16
PENDING, ABORTED, UNKNOWN_ID = 30, 31, 32
SOAK_UNDEFINED = 200
LAST_DIE = 1 << 10
_GROUPS = ("map", "status", "chuck", "setup", "vision", "probe", "siph", "aux", "loader", "scope", "qalibria")
_Z_REFERENCES = {"c": "contact", "s": "separation", "h": "hover", "z": "zero", "r": "current"}
_XY_REFERENCES = {"h": "home", "r": "current", "z": "zero", "c": "center", "m": "machine", "a": "realpos"}
_LINE_MAX = 65536

Arguments = list[str]
Answer = str | tuple[int, str]  # text, or flags and text
Handler = Callable[[Arguments], Answer]


@dataclass
class _Job:
    """An asynchronous command: waiting to be carried out, then with its result."""

    run: Callable[[], Answer]
    asked: bool = False
    reply: tuple[int, str] | None = None


class Sentio:
    """The prober's side of the wire; a `tcp.Service`."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._handlers = self._table()
        self._received = b""
        self._jobs: dict[int, _Job] = {}
        self._next_job = 1

    # -- the wire ------------------------------------------------------------------------------------------------

    def connected(self) -> None:
        """Forget what the last client sent half of."""
        self._received = b""

    def receive(self, data: bytes) -> bytes:
        """Answer all complete lines."""
        *lines, self._received = (self._received + data).split(b"\n")
        if len(self._received) > _LINE_MAX:
            self._received = b""
        replies = []
        for line in lines:
            reply = self._line(line.decode("utf-8", errors="replace").strip())
            if reply is not None:
                replies.append(reply.encode() + b"\n")
        return b"".join(replies)

    def deadline(self) -> float | None:
        """Nothing happens by itself."""
        return None

    def expired(self) -> None:
        """Never called."""

    def _line(self, line: str) -> str | None:
        if not line:
            return None
        if line.startswith("*"):
            return self._plain(line)
        code, job, text = self._command(line)
        return f"{code},{job},{text}"

    def _plain(self, line: str) -> str | None:
        word, _, rest = line.partition(" ")
        if word.upper() == "*IDN?":
            return f"MPI Corporation,Sentio - virtual prober,0,{self._prober.spec.version}"
        if word.upper() == "*RCS?":
            return "1"
        if word.upper() == "*GET?":
            return f"undefined variable {rest.strip()}"
        return None  # *RCS n, *LOCAL: no reply

    def _command(self, line: str) -> tuple[int, int, str]:
        word, _, rest = line.partition(" ")
        arguments = [part.strip() for part in rest.split(",")] if rest.strip() else []
        name = word.lower()
        start = re.match(r"^((?:\w+:)*)start_(\w+)$", name)
        if start is not None:
            return self._begin(start.group(1) + start.group(2), arguments)
        code, text = self._carry_out(name, arguments)
        return code, 0, text

    def _carry_out(self, name: str, arguments: Arguments) -> tuple[int, str]:
        handler = self._handlers.get(name)
        if handler is None:
            group, colon, _ = name.partition(":")
            known = not colon or group in _GROUPS
            return (UNKNOWN if known else NO_HANDLER), f"Unknown command: {name}"
        return _outcome(lambda: handler(arguments))

    # -- asynchronous commands -----------------------------------------------------------------------------------

    def _begin(self, name: str, arguments: Arguments) -> tuple[int, int, str]:
        handler = self._handlers.get(name) or _ONLY_STARTED.get(name)
        if handler is None:
            return UNKNOWN, 0, f"Unknown command: start_{name}"
        job = self._next_job
        self._next_job += 1
        self._jobs[job] = _Job(run=lambda: handler(arguments))
        return 0, job, "OK"

    def _query(self, arguments: Arguments) -> Answer:
        """Pending at the first question, done at the second: time passes by being asked for."""
        job = self._job(arguments)
        if not job.asked:
            job.asked = True
            raise ProberFault(PENDING, "Command pending")
        return self._finish(job)

    def _wait(self, arguments: Arguments) -> Answer:
        return self._finish(self._job(arguments))

    def _wait_all(self, arguments: Arguments) -> Answer:
        for job in self._jobs.values():
            self._finish(job)
        return "OK"

    def _abort(self, arguments: Arguments) -> Answer:
        job = self._job(arguments)
        if job.reply is None:
            job.reply = (ABORTED, "Command aborted")
        return "OK"

    def _job(self, arguments: Arguments) -> _Job:
        number = _integer(arguments, 0)
        if number not in self._jobs:
            raise ProberFault(UNKNOWN_ID, f"Unknown command id {number}")
        return self._jobs[number]

    def _finish(self, job: _Job) -> Answer:
        if job.reply is None:
            job.reply = _outcome(job.run)
        code, text = job.reply
        if code & (LAST_DIE - 1):
            raise ProberFault(code, text)
        return code, text

    # -- commands ------------------------------------------------------------------------------------------------

    def _table(self) -> dict[str, Handler]:
        return {
            **self._chuck_commands(),
            **self._chuck_settings(),
            **self._map_commands(),
            **self._map_queries(),
            **self._bin_commands(),
            **self._status_commands(),
            "query_command_status": self._query,
            "wait_complete": self._wait,
            "wait_all": self._wait_all,
            "abort_command": self._abort,
        }

    def _chuck_commands(self) -> dict[str, Handler]:
        prober = self._prober
        return {
            "move_chuck_contact": lambda a: _number(prober.contact()),
            "move_chuck_separation": lambda a: _number(prober.separate()),
            "move_chuck_hover": lambda a: _number(prober.hover()),
            "move_chuck_lift": lambda a: _number(prober.separate()),
            "move_chuck_home": self._home,
            "move_chuck_load": self._load,
            "move_chuck_xy": lambda a: self._move_xy(a).rpartition(",")[0],
            "chuck:move_xy": self._move_xy,
            "move_chuck_index": self._move_index,
            "move_chuck_z": lambda a: self._move_z(a).partition(",")[0],
            "chuck:move_z": self._move_z,
            "get_chuck_xy": self._get_chuck_xy,
            "chuck:get_xy": lambda a: self._position_text() + ",Home",
            "get_chuck_z": lambda a: _number(prober.z - prober.height_of(_z_reference(a))),
            "chuck:get_z": self._get_z,
            "get_chuck_theta": lambda a: "0.0",
            "chuck:has_xy": lambda a: "True",
            "chuck:has_z": lambda a: "True",
            "has_chuck_xyz": lambda a: "1",
            "stop_chuck_xyz": lambda a: "OK",
            "stop_chuck_theta": lambda a: "OK",
        }

    def _chuck_settings(self) -> dict[str, Handler]:
        return {
            "get_chuck_site_heights": self._get_heights,
            "set_chuck_site_heights": self._set_heights,
            "get_chuck_site_status": self._site_status,
            "get_chuck_site_count": lambda a: "1",
            "get_chuck_site_index": lambda a: "0",
            "get_chuck_site_name": lambda a: "Wafer",
            "enable_chuck_overtravel": self._enable_overtravel,
            "set_chuck_overtravel_gap": self._set_overtravel_gap,
            "set_chuck_separation_gap": self._set_separation_gap,
            "set_stepping_contact_mode": self._set_stepping_mode,
            "set_soft_contact": lambda a: "OK" if _boolean(a, 0) in (True, False) else "",
            "clear_contact": self._clear_contact,
            "set_vacuum": self._set_vacuum,
            "get_vacuum_status": lambda a: "1" if self._prober.vacuum else "0",
            "get_door_status": lambda a: "True,False",
            "get_wafer_diameter": lambda a: _number(self._prober.diameter * 1e3),
            "setup:contact_counter:get": lambda a: str(self._prober.contacts),
            "setup:contact_counter:reset": self._reset_contacts,
        }

    def _home(self, arguments: Arguments) -> Answer:
        self._prober.separate()
        self._prober.move_xy(0.0, 0.0)
        return self._position_text()

    def _load(self, arguments: Arguments) -> Answer:
        self._prober.separate()
        self._prober.move_xy(0.0, -self._prober.diameter * 1e6)
        return "OK"

    def _move_xy(self, arguments: Arguments) -> str:
        reference = _one_of(arguments, 0, _XY_REFERENCES)
        if reference not in ("home", "current", "zero"):
            raise ProberFault(PARAMETER, f"xy reference {reference} is not simulated")
        x, y = _real(arguments, 1), _real(arguments, 2)
        if reference == "current":
            x, y = x + self._prober.x, y + self._prober.y
        self._prober.move_xy(x, y)
        return f"{self._position_text()},{reference.capitalize()}"

    def _move_index(self, arguments: Arguments) -> Answer:
        _one_of(arguments, 0, {"h": "home", "r": "current"})
        site = self._prober.site
        if site is None:
            raise ProberFault(EXECUTION, "The needles are not over a die")
        start = self._prober.map.home if arguments[0].lower().startswith("h") else site
        self._prober.step_to((start[0] + _integer(arguments, 1), start[1] + _integer(arguments, 2)))
        return self._position_text()

    def _move_z(self, arguments: Arguments) -> str:
        reference = _z_reference(arguments)
        return f"{_number(self._prober.move_z(reference, _real(arguments, 1)))},Zero"

    def _get_chuck_xy(self, arguments: Arguments) -> Answer:
        return self._position_text()

    def _get_z(self, arguments: Arguments) -> Answer:
        reference = _z_reference(arguments)
        return f"{_number(self._prober.z - self._prober.height_of(reference))},{reference.capitalize()}"

    def _position_text(self) -> str:
        return f"{_number(self._prober.x)},{_number(self._prober.y)}"

    def _get_heights(self, arguments: Arguments) -> Answer:
        prober = self._prober
        contact = -1.0 if prober.contact_height is None else prober.contact_height
        return ",".join(_number(v) for v in (contact, prober.separation_gap, prober.overtravel_gap, prober.hover_gap))

    def _set_heights(self, arguments: Arguments) -> Answer:
        contact, separation, overtravel, hover = (_real(arguments, i) for i in range(1, 5))
        if not contact > separation > hover >= 0:
            raise ProberFault(OUT_OF_BOUNDS, "Heights must be ordered: contact > separation gap > hover gap")
        prober = self._prober
        prober.set_overtravel_gap(overtravel)
        prober.contact_height, prober.separation_gap, prober.hover_gap = contact, separation, hover
        return f"{arguments[0]},{self._get_heights([])}"

    def _site_status(self, arguments: Arguments) -> Answer:
        prober = self._prober
        flags = (True, prober.contact_height is not None, prober.overtravel, prober.vacuum)
        return ",".join(str(int(flag)) for flag in flags)

    def _enable_overtravel(self, arguments: Arguments) -> Answer:
        self._prober.overtravel = _boolean(arguments, 0)
        return "OK"

    def _set_overtravel_gap(self, arguments: Arguments) -> Answer:
        self._prober.set_overtravel_gap(_real(arguments, 0))
        return "OK"

    def _set_separation_gap(self, arguments: Arguments) -> Answer:
        gap = _real(arguments, 0)
        if gap <= 0:
            raise ProberFault(OUT_OF_BOUNDS, "The separation gap must be positive")
        self._prober.separation_gap = gap
        return "OK"

    def _set_stepping_mode(self, arguments: Arguments) -> Answer:
        modes = {mode.value.lower(): mode for mode in SteppingMode}
        word = _text(arguments, 0).lower()
        if word not in modes:
            raise ProberFault(PARAMETER, f"Unknown stepping contact mode {word}")
        self._prober.mode = modes[word]
        return "OK"

    def _clear_contact(self, arguments: Arguments) -> Answer:
        self._prober.separate()
        self._prober.contact_height = None
        return "OK"

    def _set_vacuum(self, arguments: Arguments) -> Answer:
        self._prober.vacuum = _boolean(arguments, 1)
        return "OK"

    def _reset_contacts(self, arguments: Arguments) -> Answer:
        self._prober.contacts = 0
        return "OK"

    # -- wafer map -----------------------------------------------------------------------------------------------

    def _map_commands(self) -> dict[str, Handler]:
        return {
            "map:step_first_die": lambda a: self._step(0, a, 0),
            "map:step_next_die": lambda a: self._step(self._place_on_route() + 1, a, 0),
            "map:step_previous_die": lambda a: self._step(self._place_on_route() - 1, a, 0),
            "map:step_die": self._step_die,
            "map:step_die_seq": lambda a: self._step(_integer(a, 0), a, 1),
            "map:bin_step_next_die": self._bin_step,
            "map:subsite:step": self._step_subsite,
            "map:subsite:step_next": self._no_more_subsites,
            "map:subsite:step_previous": self._no_more_subsites,
            "map:subsite:bin_step_next": self._no_more_subsites,
            "map:set_routing": self._set_routing,
            "map:path:select_dies": self._select_dies,
            "map:path:create_from_bins": self._path_from_bins,
            "map:path:add_bins": lambda a: self._change_path(a, add=True),
            "map:path:remove_bins": lambda a: self._change_path(a, add=False),
            "map:die:select": lambda a: self._select(a, True),
            "map:die:unselect": lambda a: self._select(a, False),
        }

    def _map_queries(self) -> dict[str, Handler]:
        prober, wafer = self._prober, self._prober.map
        pitch = self._prober.pitch
        return {
            "map:die:get_current_index": self._current_index,
            "map:die:get_current_subsite": lambda a: str(prober.subsite),
            "map:die:get_status": lambda a: str(wafer.status(_site(a, 0))),
            "map:get_die_seq": lambda a: str(self._sequence()),
            "map:get_num_dies": self._count_dies,
            "map:path:get_die": self._path_die,
            "map:get_routing": lambda a: f"{wafer.start_point.upper()},{wafer.priority.upper()}",
            "map:get_index_size": lambda a: f"{_number(pitch[0])},{_number(pitch[1])}",
            "map:get_axis_orient": lambda a: "UR",
            "map:get_home_die": lambda a: f"{wafer.home[0]},{wafer.home[1]}",
            "map:get_grid_origin": lambda a: "0,0",
            "map:get_diameter": lambda a: str(round(prober.diameter * 1e3)),
            "map:get_orient_marker": lambda a: "Notch,270,1",
            "map:get_num_cols": lambda a: str(max(site[0] for site in wafer.present) + 1),
            "map:get_num_rows": lambda a: str(max(site[1] for site in wafer.present) + 1),
            "map:subsite:get_num": lambda a: "1",
            "map:subsite:get": lambda a: "0,0.0,0.0",
        }

    def _sequence(self) -> int:
        """Place of the present die on the route, -1 beside it."""
        return self._prober.map.sequence_number(self._prober.site)

    def _place_on_route(self) -> int:
        number = self._sequence()
        if number < 0:
            raise ProberFault(NOT_ALLOWED, "The present die is not on the route: there is no next or previous one")
        return number

    def _step(self, number: int, arguments: Arguments, site_at: int) -> Answer:
        self._check_subsite(arguments, site_at)
        site, last = self._prober.step_in_route(number)
        return (LAST_DIE if last else 0), self._site_text(site)

    def _step_die(self, arguments: Arguments) -> Answer:
        site = _site(arguments, 0)
        self._check_subsite(arguments, 2)
        self._prober.step_to(site)
        number = self._prober.map.sequence_number(site)
        return (LAST_DIE if number == len(self._prober.map.route) - 1 else 0), self._site_text(site)

    def _bin_step(self, arguments: Arguments) -> Answer:
        self._set_bin(arguments[:1])
        return self._step(self._place_on_route() + 1, arguments, 1)

    def _check_subsite(self, arguments: Arguments, at: int) -> None:
        if len(arguments) > at and _integer(arguments, at) != 0:
            raise ProberFault(PARAMETER, "The dies have one subsite, 0")

    def _step_subsite(self, arguments: Arguments) -> Answer:
        self._check_subsite(arguments, 0)
        return "0,0,0"

    def _no_more_subsites(self, arguments: Arguments) -> Answer:
        raise ProberFault(END_OF_LIST, "The dies have one subsite")

    def _site_text(self, site: Site) -> str:
        return f"{site[0]},{site[1]},{self._prober.subsite}"

    def _set_routing(self, arguments: Arguments) -> Answer:
        start, priority = _text(arguments, 0).lower(), _text(arguments, 1).lower()
        if start not in START_POINTS or priority not in PRIORITIES:
            raise ProberFault(PARAMETER, f"Unknown routing {start}, {priority}")
        self._prober.map.start_point, self._prober.map.priority = start, priority
        self._prober.map.plan_route()
        return "OK"

    def _select_dies(self, arguments: Arguments) -> Answer:
        word = _text(arguments, 0).lower()
        if word not in ("n", "g", "u", "e", "a"):
            raise ProberFault(PARAMETER, f"Unknown selection {word}")
        wafer = self._prober.map
        wafer.selected = set() if word == "n" else set(wafer.present)
        wafer.plan_route()
        return "OK"

    def _path_from_bins(self, arguments: Arguments) -> Answer:
        wafer = self._prober.map
        wafer.plan_route(_binned(wafer.sites_with_bins, arguments))
        return str(len(wafer.route))

    def _change_path(self, arguments: Arguments, add: bool) -> Answer:
        wafer = self._prober.map
        sites = set(_binned(wafer.sites_with_bins, arguments))
        wafer.plan_route(set(wafer.route) | sites if add else set(wafer.route) - sites)
        return str(len(wafer.route))

    def _select(self, arguments: Arguments, selected: bool) -> Answer:
        wafer, site = self._prober.map, _site(arguments, 0)
        if site not in wafer.present:
            raise ProberFault(PARAMETER, f"There is no die at {site[0]},{site[1]}")
        (wafer.selected.add if selected else wafer.selected.discard)(site)
        wafer.plan_route()
        return "OK"

    def _current_index(self, arguments: Arguments) -> Answer:
        site = self._prober.site
        if site is None:
            return "-1,0,0"
        return f"{self._sequence()},{site[0]},{site[1]}"

    def _count_dies(self, arguments: Arguments) -> Answer:
        wafer = self._prober.map
        word = arguments[0].lower() if arguments else "present"
        counts = {"present": len(wafer.present), "selected": len(wafer.selected), "total": len(wafer.present)}
        if word not in counts:
            raise ProberFault(PARAMETER, f"Unknown kind of dies {word}")
        return str(counts[word])

    def _path_die(self, arguments: Arguments) -> Answer:
        number, route = _integer(arguments, 0), self._prober.map.route
        if not 0 <= number < len(route):
            raise ProberFault(OUT_OF_BOUNDS, f"The route has {len(route)} dies")
        return f"{route[number][0]},{route[number][1]}"

    # -- bins ----------------------------------------------------------------------------------------------------

    def _bin_commands(self) -> dict[str, Handler]:
        wafer = self._prober.map
        return {
            "map:bins:set_bin": self._set_bin,
            "map:bins:get_bin": lambda a: str(wafer.bins.get(self._binned_site(a, 0), 0)),
            "map:bins:set_value": self._set_value,
            "map:bins:clear_all": self._clear_bins,
            "map:bins:clear_all_values": self._clear_values,
            "map:bins:set_all": self._set_all_bins,
            "map:bins:set_bin_info": self._set_bin_info,
            "map:bins:get_bin_info": self._get_bin_info,
            "map:bins:get_num_bins": lambda a: str(len(wafer.bin_info)),
        }

    def _binned_site(self, arguments: Arguments, at: int) -> Site:
        """The die that the arguments name, or the one under the needles."""
        site = _site(arguments, at) if len(arguments) > at else self._prober.site
        if site is None or site not in self._prober.map.present:
            raise ProberFault(PARAMETER, "No such die")
        return site

    def _set_bin(self, arguments: Arguments) -> Answer:
        number = _integer(arguments, 0)
        if not 0 <= number < 256:
            raise ProberFault(OUT_OF_BOUNDS, f"Bin {number}")
        self._prober.map.bins[self._binned_site(arguments, 1)] = number
        return "OK"

    def _set_value(self, arguments: Arguments) -> Answer:
        self._prober.map.values[self._binned_site(arguments, 1)] = _real(arguments, 0)
        return "OK"

    def _clear_bins(self, arguments: Arguments) -> Answer:
        self._prober.map.bins.clear()
        return "OK"

    def _clear_values(self, arguments: Arguments) -> Answer:
        self._prober.map.values.clear()
        return "OK"

    def _set_all_bins(self, arguments: Arguments) -> Answer:
        self._prober.map.bins = dict.fromkeys(self._prober.map.present, _integer(arguments, 0))
        return "OK"

    def _set_bin_info(self, arguments: Arguments) -> Answer:
        quality = _text(arguments, 2).capitalize()
        if quality not in ("Pass", "Fail", "Undefined"):
            raise ProberFault(PARAMETER, f"Unknown bin quality {quality}")
        self._prober.map.bin_info[_integer(arguments, 0)] = (_text(arguments, 1), quality, _text(arguments, 3))
        return "OK"

    def _get_bin_info(self, arguments: Arguments) -> Answer:
        number = _integer(arguments, 0)
        if number not in self._prober.map.bin_info:
            raise ProberFault(PARAMETER, f"Bin {number} has no description")
        return ",".join((str(number), *self._prober.map.bin_info[number]))

    # -- status --------------------------------------------------------------------------------------------------

    def _status_commands(self) -> dict[str, Handler]:
        prober = self._prober
        return {
            "status:get_version": lambda a: f"Version: {prober.spec.version}",
            "status:get_machine_status": lambda a: "Ready",
            "status:get_machine_id": lambda a: "virtual",
            "status:get_access_level": lambda a: "Engineer",
            "status:get_chuck_temp": lambda a: f"{prober.chuck_temperature():.2f}",
            "status:get_chuck_temp_setpoint": lambda a: f"{prober.setpoint:.2f}",
            "status:set_chuck_temp": self._set_temperature,
            "status:get_chuck_thermo_state": lambda a: prober.thermal_state(),
            "status:get_chuck_thermo_hold_mode": lambda a: "Nonactive",
            "status:set_chuck_thermo_hold_mode": lambda a: "OK" if _boolean(a, 0) in (True, False) else "",
            "status:get_soaking_time": self._soaking_time,
            "status:show_message": lambda a: "OK",
            "status:show_hint": lambda a: "OK",
            "select_module": lambda a: "OK",
            "get_project": lambda a: "virtual",
        }

    def _set_temperature(self, arguments: Arguments) -> Answer:
        self._prober.set_temperature(_real(arguments, 0))
        return "OK"

    def _soaking_time(self, arguments: Arguments) -> Answer:
        raise ProberFault(SOAK_UNDEFINED, f"No soaking time is defined for {_real(arguments, 0):.2f}")


_ONLY_STARTED: dict[str, Handler] = {"initialization": lambda a: "OK"}


def _outcome(run: Callable[[], Answer]) -> tuple[int, str]:
    """Reply code (error or flags) and text of carrying something out."""
    try:
        answer = run()
    except ProberFault as fault:
        return fault.code, str(fault)
    return answer if isinstance(answer, tuple) else (0, answer)


def _text(arguments: Arguments, at: int) -> str:
    if len(arguments) <= at:
        raise ProberFault(COUNT, f"Invalid number of parameters: {len(arguments)}")
    return arguments[at]


def _real(arguments: Arguments, at: int) -> float:
    try:
        return float(_text(arguments, at))
    except ValueError as error:
        raise ProberFault(FORMAT, f"Not a number: {arguments[at]}") from error


def _integer(arguments: Arguments, at: int) -> int:
    try:
        return int(_text(arguments, at))
    except ValueError as error:
        raise ProberFault(FORMAT, f"Not an integer: {arguments[at]}") from error


def _boolean(arguments: Arguments, at: int) -> bool:
    """Booleans come as True/False from some clients and as 1/0 from others."""
    word = _text(arguments, at).lower()
    if word not in ("true", "false", "0", "1"):
        raise ProberFault(FORMAT, f"Not a boolean: {word}")
    return word in ("true", "1")


def _site(arguments: Arguments, at: int) -> Site:
    return _integer(arguments, at), _integer(arguments, at + 1)


def _one_of(arguments: Arguments, at: int, references: dict[str, str]) -> str:
    """A reference given by its letter or its full name, as versions of the client differ."""
    word = _text(arguments, at).lower()
    if word in references:
        return references[word]
    if word in references.values():
        return word
    raise ProberFault(PARAMETER, f"Unknown reference {word}")


def _z_reference(arguments: Arguments) -> str:
    return _one_of(arguments, 0, _Z_REFERENCES)


def _binned(find: Callable[[str], list[Site]], arguments: Arguments) -> list[Site]:
    try:
        return find(",".join(arguments))
    except ValueError as error:
        raise ProberFault(FORMAT, f"Not a list of bins: {','.join(arguments)}") from error


def _number(value: float) -> str:
    return f"{value:.1f}" if float(f"{value:.1f}") == value else f"{value:.3f}"
