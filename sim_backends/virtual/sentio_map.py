"""SENTIO remote commands of the wafer map: stepping, route and bins."""

from __future__ import annotations

from collections.abc import Callable

from sim_backends.bench.wafer_map import BINS, PRIORITIES, START_POINTS, Site
from sim_backends.virtual.prober import NOT_ALLOWED, OUT_OF_BOUNDS, PARAMETER, Prober, ProberFault
from sim_backends.virtual.sentio_arguments import (
    FORMAT,
    Answer,
    Arguments,
    Handler,
    decimal,
    integer_at,
    real_at,
    site_at,
    text_at,
)

END_OF_LIST = 16
_NAME_MAX = 100  # assumed
LAST_DIE = 1 << 10  # flag in the number of a reply


class MapCommands:
    """The wafer map as functions of a command's arguments; a fault is raised as `ProberFault`."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    def table(self) -> dict[str, Handler]:
        """What to do for each command word (lower case)."""
        return {**self._map_commands(), **self._map_queries(), **self._bin_commands()}

    def _map_commands(self) -> dict[str, Handler]:
        return {
            "map:step_first_die": lambda a: self._step(0, a, 0),
            "map:step_next_die": lambda a: self._step(self._place_on_route() + 1, a, 0),
            "map:step_previous_die": lambda a: self._step(self._place_on_route() - 1, a, 0),
            "map:step_die": self._step_die,
            "map:step_die_seq": lambda a: self._step(integer_at(a, 0), a, 1),
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
            "map:die:get_status": lambda a: str(wafer.status(site_at(a, 0))),
            "map:get_die_seq": lambda a: str(self._sequence()),
            "map:get_num_dies": self._count_dies,
            "map:path:get_die": self._path_die,
            "map:get_routing": lambda a: f"{wafer.start_point.upper()},{wafer.priority.upper()}",
            "map:get_index_size": lambda a: f"{decimal(pitch[0])},{decimal(pitch[1])}",
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
        site = site_at(arguments, 0)
        self._check_subsite(arguments, 2)
        self._prober.step_to(site)
        number = self._prober.map.sequence_number(site)
        return (LAST_DIE if number == len(self._prober.map.route) - 1 else 0), self._site_text(site)

    def _bin_step(self, arguments: Arguments) -> Answer:
        self._set_bin(arguments[:1])
        return self._step(self._place_on_route() + 1, arguments, 1)

    def _check_subsite(self, arguments: Arguments, at: int) -> None:
        if len(arguments) > at and integer_at(arguments, at) != 0:
            raise ProberFault(PARAMETER, "The dies have one subsite, 0")

    def _step_subsite(self, arguments: Arguments) -> Answer:
        self._check_subsite(arguments, 0)
        return "0,0,0"

    def _no_more_subsites(self, arguments: Arguments) -> Answer:
        raise ProberFault(END_OF_LIST, "The dies have one subsite")

    def _site_text(self, site: Site) -> str:
        site = self._prober.reported(site)
        return f"{site[0]},{site[1]},{self._prober.subsite}"

    def _set_routing(self, arguments: Arguments) -> Answer:
        start, priority = text_at(arguments, 0).lower(), text_at(arguments, 1).lower()
        if start not in START_POINTS or priority not in PRIORITIES:
            raise ProberFault(PARAMETER, f"Unknown routing {start}, {priority}")
        self._prober.map.start_point, self._prober.map.priority = start, priority
        self._prober.map.plan_route()
        return "OK"

    def _select_dies(self, arguments: Arguments) -> Answer:
        word = text_at(arguments, 0).lower()
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
        wafer, site = self._prober.map, site_at(arguments, 0)
        if site not in wafer.present:
            raise ProberFault(PARAMETER, f"There is no die at {site[0]},{site[1]}")
        (wafer.selected.add if selected else wafer.selected.discard)(site)
        wafer.plan_route()
        return "OK"

    def _current_index(self, arguments: Arguments) -> Answer:
        site = self._prober.site
        if site is None:
            return "-1,0,0"
        site = self._prober.reported(site)
        return f"{self._prober.map.sequence_number(site)},{site[0]},{site[1]}"

    def _count_dies(self, arguments: Arguments) -> Answer:
        wafer = self._prober.map
        word = arguments[0].lower() if arguments else "present"
        counts = {"present": len(wafer.present), "selected": len(wafer.selected), "total": len(wafer.present)}
        if word not in counts:
            raise ProberFault(PARAMETER, f"Unknown kind of dies {word}")
        return str(counts[word])

    def _path_die(self, arguments: Arguments) -> Answer:
        number, route = integer_at(arguments, 0), self._prober.map.route
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
        site = site_at(arguments, at) if len(arguments) > at else self._prober.site
        if site is None or site not in self._prober.map.present:
            raise ProberFault(PARAMETER, "No such die")
        return site

    def _set_bin(self, arguments: Arguments) -> Answer:
        self._prober.map.bins[self._binned_site(arguments, 1)] = _bin_at(arguments, 0)
        return "OK"

    def _set_value(self, arguments: Arguments) -> Answer:
        self._prober.map.values[self._binned_site(arguments, 1)] = real_at(arguments, 0)
        return "OK"

    def _clear_bins(self, arguments: Arguments) -> Answer:
        self._prober.map.bins.clear()
        return "OK"

    def _clear_values(self, arguments: Arguments) -> Answer:
        self._prober.map.values.clear()
        return "OK"

    def _set_all_bins(self, arguments: Arguments) -> Answer:
        self._prober.map.bins = dict.fromkeys(self._prober.map.present, _bin_at(arguments, 0))
        return "OK"

    def _set_bin_info(self, arguments: Arguments) -> Answer:
        quality = text_at(arguments, 2).capitalize()
        if quality not in ("Pass", "Fail", "Undefined"):
            raise ProberFault(PARAMETER, f"Unknown bin quality {quality}")
        name, colour = text_at(arguments, 1), text_at(arguments, 3)
        if max(len(name), len(colour)) > _NAME_MAX:
            raise ProberFault(PARAMETER, f"Names of bins have at most {_NAME_MAX} letters")
        self._prober.map.bin_info[_bin_at(arguments, 0)] = (name, quality, colour)
        return "OK"

    def _get_bin_info(self, arguments: Arguments) -> Answer:
        number = integer_at(arguments, 0)
        if number not in self._prober.map.bin_info:
            raise ProberFault(PARAMETER, f"Bin {number} has no description")
        return ",".join((str(number), *self._prober.map.bin_info[number]))


def _bin_at(arguments: Arguments, at: int) -> int:
    number = integer_at(arguments, at)
    if not 0 <= number < BINS:
        raise ProberFault(OUT_OF_BOUNDS, f"Bin {number}")
    return number


def _binned(find: Callable[[str], list[Site]], arguments: Arguments) -> list[Site]:
    try:
        return find(",".join(arguments))
    except ValueError as error:
        raise ProberFault(FORMAT, f"Not a list of bins: {','.join(arguments)}") from error
