"""A probe station's mechanics: the chuck, its heights, the wafer map on it and its temperature.

Lengths are micrometres, as probers have them; z grows towards the needles. Chuck coordinates relative to home are
those of the point of the wafer under the needles (to the right and up as columns and rows grow): an assumption, the
vendor's documents were not available.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import Field

from sim_backends.array.files.quantity import NUMBER, Celsius, Integer, Specification
from sim_backends.bench.bench import Bench
from sim_backends.bench.clock import Timing
from sim_backends.bench.wafer_map import Site, WaferMap
from sim_backends.wire.faults import FaultPlan

EXECUTION, PARAMETER, OUT_OF_BOUNDS, END_OF_ROUTE = 2, 6, 8, 11
NOT_ALLOWED, CONTACT_NOT_SET, WRONG_Z, DOOR_OPEN, OVERTRAVEL_LIMIT = 12, 23, 38, 60, 120
_TOUCH_TOLERANCE = 0.5  # um
_ON_DIE = 20.0  # um; needles further than this from the pads' centres miss them


class ProberFault(Exception):
    """The prober refuses; `code` is its number for that."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class SteppingMode(Enum):
    """What happens to the height when the chuck steps while it is at contact."""

    BACK_TO_CONTACT = "BackToContact"
    STEP_TO_SEPARATION = "StepToSeparation"
    LOCK_CONTACT = "LockContact"


Micrometres = Annotated[float, NUMBER.within(0.0, 1e5, example="16000")]


class ProberSpec(Specification):
    """How the prober is set up when the station starts. All values are assumed."""

    contact_height: Micrometres = 16000.0
    contact_height_set: bool = True
    touch_height: Micrometres = 16000.0
    """Chuck height at which needles really touch, whatever contact height is trained."""
    touch_heights: dict[Integer, Micrometres] = Field(default={})
    """The same for single dies, by index."""
    separation_gap: Micrometres = 250.0
    overtravel_gap: Micrometres = 20.0
    overtravel: bool = False
    overtravel_max: Micrometres = 150.0
    hover_gap: Micrometres = 50.0
    stepping_contact_mode: SteppingMode = SteppingMode.STEP_TO_SEPARATION
    routing: tuple[Literal["ul", "ur", "ll", "lr"], Literal["r", "c", "wr", "wc"]] = ("ul", "wr")
    temperature: Celsius = 25.0
    version: str = Field(default="25.2.3", pattern=r"^\d+\.\d+\.\d+$")


class Prober:
    """Moves the wafer under the needles; the bench is told what stands under them and whether they touch.

    Parameters
    ----------
    bench
        Dies and needles.
    spec, timing
        Set-up, and how long things take.
    route
        Dies (indices) on the route at first.
    faults
        What shall go wrong; nothing if left out.
    """

    def __init__(
        self, bench: Bench, spec: ProberSpec, timing: Timing, route: list[int], faults: FaultPlan | None = None
    ) -> None:
        self._bench, self._timing = bench, timing
        self._faults = faults or FaultPlan("prober", (), bench.log)
        wafer = bench.lot.wafer
        self.pitch = wafer.pitch_x * 1e6, wafer.pitch_y * 1e6
        self._index = {site: index for index, site in enumerate(bench.sites)}
        self.map = WaferMap(bench.sites, [bench.sites[index] for index in route])
        self.map.start_point, self.map.priority = spec.routing
        self.map.plan_route()
        self.diameter = wafer.diameter
        self.spec = spec
        self.contact_height = spec.contact_height if spec.contact_height_set else None
        self.separation_gap, self.hover_gap = spec.separation_gap, spec.hover_gap
        self.overtravel_gap, self.overtravel = spec.overtravel_gap, spec.overtravel
        self.mode = spec.stepping_contact_mode
        self.vacuum = True
        self.contacts = 0
        self.x, self.y = 0.0, 0.0
        self.z = self.separation_height
        self.subsite = 0
        self._locked_doors: set[str] = set()
        self.temperature = self.setpoint = spec.temperature
        self._temperature_time = bench.clock.now
        self._place()

    # -- height --------------------------------------------------------------------------------------------------

    @property
    def separation_height(self) -> float:
        """Height at which the wafer is clear of the needles."""
        top = self.spec.contact_height if self.contact_height is None else self.contact_height
        return top - self.separation_gap

    @property
    def at_separation(self) -> bool:
        """Whether the chuck is low enough to move sideways."""
        return self.z <= self.separation_height + _TOUCH_TOLERANCE

    def contact(self) -> float:
        """Raise the chuck to contact height (and overtravel, if it is enabled)."""
        height = self._contact_height()
        reached = self._raise_to(height + (self.overtravel_gap if self.overtravel else 0.0))
        self.contacts += 1
        return reached

    def separate(self) -> float:
        """Lower the chuck to separation height."""
        return self._raise_to(self.separation_height)

    def hover(self) -> float:
        """Hold the chuck just below contact."""
        return self._raise_to(self._contact_height() - self.hover_gap)

    def move_z(self, reference: str, z: float) -> float:
        """Move to a height relative to contact, separation, hover, zero or the present height."""
        target = self.height_of(reference) + z
        limit = self._contact_height() + self.spec.overtravel_max
        if target > limit:
            raise ProberFault(OVERTRAVEL_LIMIT, f"Height {target:.1f} um is beyond the overtravel limit {limit:.1f} um")
        if target < 0:
            raise ProberFault(OUT_OF_BOUNDS, f"Height {target:.1f} um is below the axis")
        return self._raise_to(target)

    def height_of(self, reference: str) -> float:
        """Height (um) that a z reference stands for."""
        if reference == "zero":
            return 0.0
        if reference == "current":
            return self.z
        if reference == "separation":
            return self.separation_height
        return self._contact_height() - (self.hover_gap if reference == "hover" else 0.0)

    def set_overtravel_gap(self, gap: float) -> None:
        """Set how far above contact the chuck goes when overtravel is enabled."""
        if not 0 <= gap <= self.spec.overtravel_max:
            raise ProberFault(OVERTRAVEL_LIMIT, f"Overtravel of {gap} um is beyond {self.spec.overtravel_max} um")
        self.overtravel_gap = gap

    def _contact_height(self) -> float:
        if self.contact_height is None:
            raise ProberFault(CONTACT_NOT_SET, "Contact height is not set")
        return self.contact_height

    def may_lose_contact(self) -> None:
        """Let the needles lose contact, though they stay down, if that fault is due."""
        if self._bench.contact and self._faults.fires("loses_contact"):
            self._bench.lose_contact()

    def _raise_to(self, z: float) -> float:
        """Move the chuck to a height and return it; needles let go before it takes time, and touch after it has."""
        going_up = z > self.z
        if going_up and z > self.separation_height + _TOUCH_TOLERANCE and not self.door_closed("prober"):
            raise ProberFault(DOOR_OPEN, "The prober door is open")
        touches = z >= self._touch_height() - _TOUCH_TOLERANCE
        if not touches and self._bench.contact and self._faults.fires("no_separation"):
            return z
        if not touches:
            self._bench.separate()
        self._bench.clock.advance(self._timing.approach if going_up else self._timing.retreat)
        self.z = z
        if touches:
            self._bench.touch()
        return z

    def _touch_height(self) -> float:
        index = None if self.site is None else self._index.get(self.site)
        return self.spec.touch_height if index is None else self.spec.touch_heights.get(index, self.spec.touch_height)

    # -- doors ---------------------------------------------------------------------------------------------------

    def door_closed(self, door: str) -> bool:
        """Whether a door (prober, loader) is closed; with an open prober door the chuck does not rise."""
        return door != "prober" or not self._faults.lasting("door_open")

    def door_locked(self, door: str) -> bool:
        """Whether a door is closed and locked."""
        return self.door_closed(door) and door in self._locked_doors

    def lock_door(self, door: str, locked: bool) -> None:
        """Lock or unlock a door."""
        (self._locked_doors.add if locked else self._locked_doors.discard)(door)

    # -- position ------------------------------------------------------------------------------------------------

    @property
    def site(self) -> Site | None:
        """Map site under the needles by the chuck's position, None between dies or off the wafer."""
        column = round(self.x / self.pitch[0]) + self.map.home[0]
        row = round(self.y / self.pitch[1]) + self.map.home[1]
        x, y = self._position((column, row))
        on_pads = abs(self.x - x) <= _ON_DIE and abs(self.y - y) <= _ON_DIE
        return (column, row) if on_pads and (column, row) in self.map.present else None

    def step_to(self, site: Site) -> Site:
        """Step to a die as the stepping contact mode says.

        BackToContact lowers the chuck, steps and raises it again if it was at contact; StepToSeparation lowers it and
        stays down; LockContact refuses unless the chuck is at separation.
        """
        if site not in self.map.present:
            raise ProberFault(PARAMETER, f"There is no die at {site[0]},{site[1]}")
        was_up = not self.at_separation
        if was_up and self.mode is SteppingMode.LOCK_CONTACT:
            raise ProberFault(WRONG_Z, "Stepping with wrong Z position: the chuck is not at separation height")
        if was_up:
            self.separate()
        # a step counts for both, whichever goes wrong
        stays, goes_on = self._faults.fires("no_step"), self._faults.fires("double_step")
        if not stays:
            self.move_xy(*self._position(self._neighbour(site) if goes_on else site))
        if was_up and self.mode is SteppingMode.BACK_TO_CONTACT:
            self.contact()
        return site

    def step_in_route(self, number: int) -> tuple[Site, bool]:
        """Step to a place of the route; returns the site and whether it is the last one."""
        if not 0 <= number < len(self.map.route):
            raise ProberFault(END_OF_ROUTE, "End of route")
        site = self.step_to(self.map.route[number])
        return site, number == len(self.map.route) - 1

    def move_xy(self, x: float, y: float) -> tuple[float, float]:
        """Move the chuck to a position relative to home (um); refused unless it is at separation."""
        if not self.at_separation:
            raise ProberFault(WRONG_Z, "Moving with wrong Z position: the chuck is not at separation height")
        if max(abs(x), abs(y)) > self.diameter * 1e6:
            raise ProberFault(OUT_OF_BOUNDS, f"Position {x:.1f},{y:.1f} um is beyond the stage")
        self._bench.clock.advance(self._timing.die_step)
        self.x, self.y = x, y
        self._place()
        return x, y

    def reported(self, site: Site) -> Site:
        """The site that the prober says it stands on, where it stands on `site`."""
        return self._neighbour(site) if self._faults.fires("wrong_die") else site

    def _neighbour(self, site: Site) -> Site:
        """The next die of the route, the one before for its last, the first for one beside it."""
        route = self.map.route if len(self.map.route) > 1 else sorted(self.map.present)
        number = route.index(site) if site in route else -1
        return route[number - 1 if number == len(route) - 1 else number + 1]

    def _position(self, site: Site) -> tuple[float, float]:
        column, row = self.map.home
        return (site[0] - column) * self.pitch[0], (site[1] - row) * self.pitch[1]

    def _place(self) -> None:
        site = self.site
        self._bench.move_to(None if site is None else self._index.get(site))

    # -- temperature ---------------------------------------------------------------------------------------------

    def chuck_temperature(self) -> float:
        """Temperature now (deg C). It moves with station time; asking while it is moving lets some pass."""
        too_hot = [fault.celsius for fault in self._faults.lasting("over_temperature") if fault.celsius is not None]
        if too_hot:
            self.temperature = max(too_hot)
        elif self.temperature != self.setpoint:
            self._bench.clock.advance(self._timing.thermal_poll)
            possible = (self._bench.clock.now - self._temperature_time) * self._timing.thermal_rate
            missing = self.setpoint - self.temperature
            self.temperature += max(-possible, min(possible, missing))
        self._temperature_time = self._bench.clock.now
        return self.temperature

    def set_temperature(self, celsius: float) -> None:
        """Set the temperature that the chuck shall have."""
        if not -60 <= celsius <= 300:
            raise ProberFault(OUT_OF_BOUNDS, f"Temperature {celsius} is beyond -60 to 300 deg C")
        self.chuck_temperature()
        self.setpoint = celsius

    def thermal_state(self) -> str:
        """Controlling once the temperature is reached, heating or cooling before."""
        now = self.chuck_temperature()
        if now == self.setpoint:
            return "controlling"
        return "heating" if self.setpoint > now else "cooling"
