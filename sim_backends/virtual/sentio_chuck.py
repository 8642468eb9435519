"""SENTIO remote commands that move, set up and ask the chuck, its temperature and the machine."""

from __future__ import annotations

from sim_backends.virtual.prober import EXECUTION, OUT_OF_BOUNDS, PARAMETER, Prober, ProberFault, SteppingMode
from sim_backends.virtual.sentio_arguments import (
    XY_REFERENCES,
    Answer,
    Arguments,
    Handler,
    boolean_at,
    decimal,
    integer_at,
    one_of,
    real_at,
    text_at,
    z_reference,
)

SOAK_UNDEFINED = 200
_AXIS = 100_000.0  # um; no chuck rises further (assumed)
DOORS = {"p": "prober", "l": "loader"}


class ChuckCommands:
    """Chuck and machine as functions of a command's arguments; a fault is raised as `ProberFault`."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    def table(self) -> dict[str, Handler]:
        """What to do for each command word (lower case)."""
        return {**self._chuck_commands(), **self._chuck_settings(), **self._status_commands()}

    def _chuck_commands(self) -> dict[str, Handler]:
        prober = self._prober
        return {
            "move_chuck_contact": lambda a: decimal(prober.contact()),
            "move_chuck_separation": lambda a: decimal(prober.separate()),
            "move_chuck_hover": lambda a: decimal(prober.hover()),
            "move_chuck_lift": lambda a: decimal(prober.separate()),
            "move_chuck_home": self._home,
            "move_chuck_load": self._load,
            "move_chuck_xy": lambda a: self._move_xy(a).rpartition(",")[0],
            "chuck:move_xy": self._move_xy,
            "move_chuck_index": self._move_index,
            "move_chuck_z": lambda a: self._move_z(a).partition(",")[0],
            "chuck:move_z": self._move_z,
            "get_chuck_xy": self._get_chuck_xy,
            "chuck:get_xy": lambda a: self._position_text() + ",Home",
            "get_chuck_z": lambda a: decimal(prober.z - prober.height_of(z_reference(a))),
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
            "clear_contact": self._clear_contact,
            "set_vacuum": self._set_vacuum,
            "get_vacuum_status": lambda a: "1" if self._prober.vacuum else "0",
            "get_door_status": self._door_status,
            "set_door_lock": self._lock_door,
            "get_wafer_diameter": lambda a: decimal(self._prober.diameter * 1e3),
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
        reference = one_of(arguments, 0, XY_REFERENCES)
        if reference not in ("home", "current", "zero"):
            raise ProberFault(PARAMETER, f"xy reference {reference} is not simulated")
        x, y = real_at(arguments, 1), real_at(arguments, 2)
        if reference == "current":
            x, y = x + self._prober.x, y + self._prober.y
        self._prober.move_xy(x, y)
        return f"{self._position_text()},{reference.capitalize()}"

    def _move_index(self, arguments: Arguments) -> Answer:
        one_of(arguments, 0, {"h": "home", "r": "current"})
        site = self._prober.site
        if site is None:
            raise ProberFault(EXECUTION, "The needles are not over a die")
        start = self._prober.map.home if arguments[0].lower().startswith("h") else site
        self._prober.step_to((start[0] + integer_at(arguments, 1), start[1] + integer_at(arguments, 2)))
        return self._position_text()

    def _move_z(self, arguments: Arguments) -> str:
        reference = z_reference(arguments)
        return f"{decimal(self._prober.move_z(reference, real_at(arguments, 1)))},Zero"

    def _get_chuck_xy(self, arguments: Arguments) -> Answer:
        return self._position_text()

    def _get_z(self, arguments: Arguments) -> Answer:
        reference = z_reference(arguments)
        return f"{decimal(self._prober.z - self._prober.height_of(reference))},{reference.capitalize()}"

    def _position_text(self) -> str:
        return f"{decimal(self._prober.x)},{decimal(self._prober.y)}"

    def _get_heights(self, arguments: Arguments) -> Answer:
        prober = self._prober
        contact = -1.0 if prober.contact_height is None else prober.contact_height
        return ",".join(decimal(v) for v in (contact, prober.separation_gap, prober.overtravel_gap, prober.hover_gap))

    def _set_heights(self, arguments: Arguments) -> Answer:
        contact, separation, overtravel, hover = (real_at(arguments, i) for i in range(1, 5))
        if not _AXIS >= contact > separation > hover >= 0:
            raise ProberFault(
                OUT_OF_BOUNDS, f"Heights must be ordered: {_AXIS:g} > contact > separation gap > hover gap"
            )
        prober = self._prober
        prober.set_overtravel_gap(overtravel)
        prober.contact_height, prober.separation_gap, prober.hover_gap = contact, separation, hover
        return f"{arguments[0]},{self._get_heights([])}"

    def _site_status(self, arguments: Arguments) -> Answer:
        prober = self._prober
        flags = (True, prober.contact_height is not None, prober.overtravel, prober.vacuum)
        return ",".join(str(int(flag)) for flag in flags)

    def _enable_overtravel(self, arguments: Arguments) -> Answer:
        self._prober.overtravel = boolean_at(arguments, 0)
        return "OK"

    def _set_overtravel_gap(self, arguments: Arguments) -> Answer:
        self._prober.set_overtravel_gap(real_at(arguments, 0))
        return "OK"

    def _set_separation_gap(self, arguments: Arguments) -> Answer:
        gap = real_at(arguments, 0)
        if not 0 < gap <= _AXIS:
            raise ProberFault(OUT_OF_BOUNDS, f"The separation gap must lie between 0 and {_AXIS:g} um")
        self._prober.separation_gap = gap
        return "OK"

    def _set_stepping_mode(self, arguments: Arguments) -> Answer:
        modes = {mode.value.lower(): mode for mode in SteppingMode}
        word = text_at(arguments, 0).lower()
        if word not in modes:
            raise ProberFault(PARAMETER, f"Unknown stepping contact mode {word}")
        self._prober.mode = modes[word]
        return "OK"

    def _clear_contact(self, arguments: Arguments) -> Answer:
        self._prober.separate()
        self._prober.contact_height = None
        return "OK"

    def _set_vacuum(self, arguments: Arguments) -> Answer:
        self._prober.vacuum = boolean_at(arguments, 1)
        return "OK"

    def _door_status(self, arguments: Arguments) -> Answer:
        door = one_of(arguments, 0, DOORS)
        return f"{int(self._prober.door_closed(door))},{int(self._prober.door_locked(door))}"

    def _lock_door(self, arguments: Arguments) -> Answer:
        self._prober.lock_door(one_of(arguments, 0, DOORS), boolean_at(arguments, 1))
        return "OK"

    def _reset_contacts(self, arguments: Arguments) -> Answer:
        self._prober.contacts = 0
        return "OK"

    # -- temperature and machine ---------------------------------------------------------------------------------

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
            "status:get_soaking_time": self._soaking_time,
            "status:show_message": lambda a: "OK",
            "status:show_hint": lambda a: "OK",
            "select_module": lambda a: "OK",
            "get_project": lambda a: "virtual",
        }

    def _set_temperature(self, arguments: Arguments) -> Answer:
        self._prober.set_temperature(real_at(arguments, 0))
        return "OK"

    def _soaking_time(self, arguments: Arguments) -> Answer:
        raise ProberFault(SOAK_UNDEFINED, f"No soaking time is defined for {real_at(arguments, 0):.2f}")
