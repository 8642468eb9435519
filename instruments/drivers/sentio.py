"""MPI SENTIO probe stations over their remote text protocol, as a QCoDeS instrument."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Annotated, TypeVar, Unpack

from qcodes.instrument import Instrument, InstrumentBaseKWArgs

from instruments.drivers.sentio_reply import (
    END_OF_ROUTE,
    NO_HANDLER,
    NOT_ALLOWED,
    NOT_SUPPORTED,
    OK,
    UNKNOWN_COMMAND,
    Reply,
    parse,
    refusal,
)
from instruments.roles.interfaces import DieSite, InterlockError, LimitError, LinkError, ProberError, ZState
from instruments.roles.off_recipe import OffRecipe, OffStep, Stage
from instruments.roles.quantities import CELSIUS, METRE, Timeout
from instruments.wire import repeatable
from instruments.wire.sessions import open_visa

T = TypeVar("T")

HeightTolerance = Annotated[float, METRE.within(0.0, 1e-4, above=True, example="1 um")]
Overtravel = Annotated[float, METRE.within(0.0, 1e-3, example="50 um")]
ChuckTemperature = Annotated[float, CELSIUS.within(-100.0, 400.0, example="125 °C")]

STOP_PATIENCE = 0.2
"""Seconds that `stop` waits for another thread's exchange before it is sent out of turn."""

OFF_LIMIT = 15.0
"""Seconds allowed for lowering the chuck when the program that moved it is gone; a movement may have to end first."""

PAUSES = (0.1, 0.3, 1.0)
"""Seconds before a question that was not answered is asked again, over a new connection."""

BUSY_PAUSES = (0.1, 0.3, 1.0, 2.0)
"""Seconds before a command that is not allowed now is given again; nothing was done."""

REST_LOOKS = 50
"""How often the chuck's height is asked at most, every 0.1 s, until it no longer changes."""

_GONE = (NO_HANDLER, UNKNOWN_COMMAND)  # 25.2 and later announce that the older names of stage commands will be removed


class Sentio(Instrument):
    """An MPI probe station run by SENTIO; fills the role `Prober`.

    Connecting selects the native command set and asks the version; nothing moves. After a time-out the connection is
    closed and opened again before the next command, so that no late reply is read; questions are then asked again. If
    a movement to a named place is not answered, the prober is asked where it is: if it is there, all is well; if not,
    the movement is commanded once more. Relative movements (`first_die`, `next_die`) are never repeated. The prober
    steps only from separation, and every step is compared with the die index that the prober reports afterwards.

    Parameters
    ----------
    name
        Name of the instrument in the station.
    address
        VISA resource, usually ``TCPIP::host::35555::SOCKET``.
    timeout
        Seconds allowed for an answer.
    move_timeout
        Seconds allowed for a movement.
    z_tolerance
        Metres by which a height may differ from contact or separation and still count as that.
    overtravel_max
        Metres beyond contact that the needles may take at most.
    temperature_max
        Chuck temperature (°C) above which nothing is touched (assumed).
    backend
        PyVISA back end (``@py``, ``@ivi``, path of a vendor's VISA library).

    Raises
    ------
    LinkError
        Nobody answers at the address.
    ProberError
        What answers is no SENTIO.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        timeout: Timeout = 5.0,
        move_timeout: Timeout = 60.0,
        z_tolerance: HeightTolerance = 1e-6,
        overtravel_max: Overtravel = 0.0,
        temperature_max: ChuckTemperature = 125.0,
        backend: str = "@py",
        **kwargs: Unpack[InstrumentBaseKWArgs],
    ) -> None:
        super().__init__(name, **kwargs)
        self._move_timeout = move_timeout
        self._z_tolerance = z_tolerance
        self._overtravel_max = overtravel_max
        self._overtravel: bool | None = None  # whether it is enabled; None: not known, an earlier program may have
        self._stopped = threading.Event()
        self._temperature_max, self._doors_told = temperature_max, True
        self._last_die = False
        self._session = open_visa(address, timeout=timeout, backend=backend)
        try:
            self._version = self._introduce_patiently()
            self._session.register(self._off_recipe())
        except BaseException:
            self._session.close()
            raise
        self.add_parameter(
            "temperature",
            unit="°C",
            label="Chuck temperature",
            docstring="Measure the temperature of the chuck (°C).",
            get_cmd=self.chuck_temperature,
        )
        self.add_parameter(
            "chuck_z",
            unit="m",
            label="Chuck height",
            docstring="Get the height of the chuck above the zero of its axis (m).",
            get_cmd=self._height,
        )

    # -- who it is ---------------------------------------------------------------------------------------------------

    def identify(self) -> str:
        """Maker, model and version."""
        return f"MPI,SENTIO,,{self._version}"

    def get_idn(self) -> dict[str, str | None]:
        """`identify` as QCoDeS keeps it; SENTIO tells no serial number."""
        return {"vendor": "MPI", "model": "SENTIO", "serial": None, "firmware": self._version}

    # -- the route ---------------------------------------------------------------------------------------------------

    def die_sites(self) -> list[DieSite]:
        """The selected dies in route order."""
        count = self._ask("map:get_num_dies Selected", lambda reply: self._whole(reply, 1)[0])
        return [self._ask(f"map:path:get_die {index}", self._site) for index in range(count)]

    @property
    def last_die(self) -> bool:
        """Whether the prober said, in its last step, that it stands on the last die of the route."""
        return self._last_die

    def first_die(self) -> DieSite:
        """Go to the first die of the route."""
        self._require_separated()
        return self._arrived(self._step("map:step_first_die"))

    def next_die(self) -> DieSite | None:
        """Go to the next die of the route; None past the last one."""
        self._require_separated()
        before = self.where()
        reply = self._move("map:step_next_die", accepted=(OK, END_OF_ROUTE))
        if reply.error == END_OF_ROUTE:
            return None
        site = self._arrived(self._noted(reply))
        if site == before:
            raise self._not_stepped("the next die", site)
        return site

    def goto_die(self, site: DieSite) -> DieSite:
        """Go to a die; returns where the prober says it is.

        Raises
        ------
        ProberError
            The needles are not separated, or the prober ended up on another die.
        """
        self._require_separated()
        self._go_to(f"map:step_die {site.column},{site.row},0", lambda: self._index()[1] == site, self._noted)
        return self._arrived(site)

    def where(self) -> DieSite | None:
        """The die under the needles by the prober's own index, or None off the route."""
        sequence, site = self._index()
        return None if sequence < 0 else site

    def set_bin(self, site: DieSite, bin_number: int) -> None:
        """Give a die a bin."""
        self._inquire(f"map:bins:set_bin {int(bin_number)},{site.column},{site.row}")

    # -- height ------------------------------------------------------------------------------------------------------

    def overtravel_max(self) -> float:
        """How far beyond contact the chuck may be raised at most (m)."""
        return self._overtravel_max

    def contact(self, overtravel: float = 0.0) -> None:
        """Raise the chuck to contact and `overtravel` (m) beyond, and see that it got there.

        Raises
        ------
        LimitError
            More than `overtravel_max`; nothing moved.
        """
        if not 0.0 <= overtravel <= self._overtravel_max:
            raise LimitError(
                f"overtravel {1e6 * overtravel:.1f} um is outside 0..{1e6 * self._overtravel_max:.1f} um; "
                "overtravel_max in the station file says how much these needles may take"
            )
        if overtravel > 0:
            self._inquire(f"set_chuck_overtravel_gap {1e6 * overtravel:.2f}")
        if (overtravel > 0) is not self._overtravel:
            self._enable_overtravel(overtravel > 0)
        self._move_to_height("move_chuck_contact", "chuck:move_z Contact,0", ZState.CONTACT)

    def separate(self) -> None:
        """Lower the chuck to separation, and see that it got there."""
        self._move_to_height("move_chuck_separation", "chuck:move_z Separation,0", ZState.SEPARATED)

    def z_state(self) -> ZState:
        """Whether the needles touch, from the chuck's height and the heights taught for the wafer.

        At or above contact (overtravel included) they do, at or below separation they do not; anything between, and
        any height without a taught contact, is `ZState.UNKNOWN`.
        """
        try:
            contact, gap = self._taught_heights()
        except ProberError as error:
            self.log.warning("no z state: %s", error)
            return ZState.UNKNOWN
        height, tolerance = self._height(), self._z_tolerance
        if contact <= 0 or gap <= 2 * tolerance:  # nothing was taught
            return ZState.UNKNOWN
        if height >= contact - tolerance:
            return ZState.CONTACT
        return ZState.SEPARATED if height <= contact - gap + tolerance else ZState.UNKNOWN

    def _enable_overtravel(self, enabled: bool) -> None:
        self._overtravel = None
        try:
            self._inquire(f"enable_chuck_overtravel {enabled}")
        except ProberError as error:
            if enabled or error.code not in (*_GONE, NOT_SUPPORTED):
                raise  # a prober that does not know overtravel has none to switch off
        self._overtravel = enabled

    def chuck_temperature(self) -> float:
        """Chuck temperature in degrees Celsius."""
        return self._inquire("status:get_chuck_temp", 1)[0]

    def check_interlocks(self) -> None:
        """See that the doors are closed and the chuck is not too hot.

        Raises
        ------
        InterlockError
            They are not; the message says what to do.
        """
        temperature = self.chuck_temperature()
        if not temperature <= self._temperature_max:
            raise InterlockError(
                f"the chuck of {self.name} is at {temperature:.1f} °C, above {self._temperature_max:g} °C "
                "(temperature_max in the station file). Find out why and let it cool down, then go on."
            )
        if self._doors_told and not self._doors_closed():
            raise InterlockError(f"a door of {self.name} is open. Close it, then go on.")

    def _doors_closed(self) -> bool:
        """Whether the prober says that its doors are closed; a prober without that question has no doors."""
        try:
            reply = self._ask("get_door_status prober", lambda reply: reply)
        except ProberError as error:
            if error.code not in (*_GONE, NOT_SUPPORTED):
                raise
            self._doors_told = False
            return True
        return reply.text.split(",")[0].strip().lower() in ("1", "true", "closed")

    def stop(self) -> None:
        """Stop all movement now, from any thread; a movement that another thread waits for is given up.

        Raises
        ------
        LinkError
            The prober did not hear it: its emergency stop must be pressed by hand.
        """
        command = "stop_chuck_xyz"
        self._stopped.set()  # a thread that waits for a movement does not command it again
        try:
            if self._session.lock.acquire(timeout=STOP_PATIENCE):
                try:
                    self._inquire(command)
                finally:
                    self._session.lock.release()
            else:
                self._session.interrupt(command)
        except LinkError as error:
            raise LinkError(f"{self.name} DID NOT HEAR THE STOP ({error}). Press its emergency stop.") from error

    def close(self) -> None:
        """Close the connection; the chuck stays where it is."""
        session = self.__dict__.get("_session")
        if session is not None:
            session.close()
        super().close()

    # -- stepping ----------------------------------------------------------------------------------------------------

    def _index(self) -> tuple[int, DieSite]:
        """Place on the route (negative beside it) and die under the needles, by the prober's own index."""
        sequence, column, row = self._ask("map:die:get_current_index", lambda reply: self._whole(reply, 3)[:3])
        return sequence, DieSite(column, row)

    def _require_separated(self) -> None:
        state = self.z_state()
        if state is not ZState.SEPARATED:
            raise ProberError(
                f"{self.name} steps only from separation; the z state is {state.value}. Separate first; if it stays "
                "unknown, see on the prober that contact and separation heights are taught.",
                0,
            )

    def _step(self, command: str) -> DieSite:
        return self._noted(self._move(command))

    def _noted(self, reply: Reply) -> DieSite:
        """The die that a step's reply names; keeps its last-die flag."""
        site = self._site(reply)
        self._last_die = reply.last_die
        return site

    def _arrived(self, planned: DieSite) -> DieSite:
        """`planned`, if the prober's index says the same after a step."""
        _, site = self._index()
        if site != planned:
            raise self._not_stepped(str(planned), site)
        return planned

    def _not_stepped(self, planned: str, found: DieSite) -> ProberError:
        return ProberError(
            f"{self.name} was sent to {planned} and reports success, but its die index says {found}. It may have "
            "lifted without stepping, or stepped too far: nothing was touched. Look at the wafer map on the prober "
            "(route, home die, selected dies) and step by hand until both agree, then go on.",
            0,
        )

    def _move_to_height(self, command: str, newer: str, wanted: ZState) -> None:
        try:
            self._go_to(command, lambda: self.z_state() is wanted)
        except ProberError as error:
            if error.code not in _GONE:
                raise
            self._go_to(newer, lambda: self.z_state() is wanted)
        state = self.z_state()
        if state is not wanted:
            raise ProberError(
                f"{self.name} reports success for {command!r}, but the chuck's height says {state.value}. See where "
                "the chuck really is, and compare the taught contact and separation heights with its position on the "
                "prober, then go on.",
                0,
            )

    def _taught_heights(self) -> tuple[float, float]:
        """Contact height and separation gap of the wafer site (m)."""
        contact, gap, *_ = self._inquire("get_chuck_site_heights Wafer", 2)
        return contact * 1e-6, gap * 1e-6

    def _height(self) -> float:
        """Chuck height above the axis zero (m)."""
        try:
            height, *_ = self._inquire("get_chuck_z Zero", 1)
        except ProberError as error:
            if error.code not in _GONE:
                raise
            height, *_ = self._inquire("chuck:get_z Zero", 1)
        return height * 1e-6

    # -- the wire ----------------------------------------------------------------------------------------------------

    def _off_recipe(self) -> OffRecipe:
        """Lower the chuck and see that it is down; every answer begins with an error number, 0 but for its flags."""
        newer = tuple(int(part) for part in self._version.split(".")[:2]) >= (25, 2)
        separate = b"chuck:move_z Separation,0\n" if newer else b"move_chuck_separation\n"
        height = b"chuck:get_z Separation\n" if newer else b"get_chuck_z Separation\n"
        done = rb"(0|1024|2048|3072),\d+,"
        return OffRecipe(
            Stage.PROBER,
            # above separation by less than a micrometre, or below it: success alone may be said of a chuck that is up
            (OffStep(separate, done + rb".*"), OffStep(height, done + rb"\s*(-\d+(\.\d+)?|0(\.\d+)?)(,.*)?")),
            terminator=b"\n",
            opening=(OffStep(b"*RCS 1\n"),),
            limit=OFF_LIMIT,
        )

    def _introduce(self) -> str:
        """Select the native command set (which is not answered) and return the version."""
        self._session.write("*RCS 1")
        reply = self._exchange("status:get_version", None)
        found = re.search(r"Version:\s*(\d{1,4}(\.\d{1,6})+)", reply.text, re.ASCII)
        if reply.error != OK or found is None:
            raise ProberError(
                f"{self._session.address} answers {reply.text!r}, not the version of a SENTIO.", reply.error
            )
        return found.group(1)

    def _introduce_patiently(self) -> str:
        """`_introduce`; once more over a new connection if that is not answered."""
        try:
            return self._introduce()
        except LinkError as error:
            self.log.warning("asking for the version again: %s", error)
            self._session.reopen()
            return self._introduce()

    def _inquire(self, command: str, least: int = 0) -> list[float]:
        """Leading numbers of the answer, at least so many, to what may be asked again."""
        return self._ask(command, lambda reply: self._numbers(reply, least))

    def _ask(self, command: str, read: Callable[[Reply], T]) -> T:
        """What `read` makes of the answer; asked again, over a new connection, if that is lost or unreadable."""
        for pause in PAUSES:
            try:
                return read(self._command(command, None))
            except LinkError as error:
                self.log.warning("asking %r again in %g s: %s", command, pause, error)
            time.sleep(pause)
        try:
            return read(self._command(command, None))
        except LinkError as error:
            raise LinkError(
                f"{self.name} does not answer, asked {command!r} {len(PAUSES) + 1} times ({error}). See that the "
                "prober's software runs, that its cable is in and that no other program is connected, then go on."
            ) from error

    def _go_to(
        self, command: str, arrived: Callable[[], bool], noted: Callable[[Reply], object] = lambda reply: None
    ) -> None:
        """Command a movement to a named place; if its answer is lost, see whether the prober is there."""
        self._stopped.clear()
        for last in (False, True):
            try:
                noted(self._move(command))
                return
            except LinkError as error:
                if self._stopped.is_set():
                    raise
                self.log.warning("%r was not answered; asking where the prober is: %s", command, error)
                self._come_to_rest()
                if arrived():
                    return
                if last:
                    raise LinkError(
                        f"{self.name} did not answer {command!r} and is not where that leads ({error}). See on the "
                        "prober what it is doing and where the chuck is, then go on."
                    ) from error
            if self._stopped.is_set():
                raise LinkError(f"{self.name}: {command!r} was stopped.")

    def _come_to_rest(self) -> None:
        """Wait until the chuck's height no longer changes."""
        before = self._height()
        for _ in range(REST_LOOKS):
            time.sleep(0.1)
            height = self._height()
            if abs(height - before) <= self._z_tolerance:
                return
            before = height
        raise ProberError(f"the chuck of {self.name} does not come to rest. Stop it by hand and see why.", 0)

    def _move(self, command: str, accepted: tuple[int, ...] = (OK,)) -> Reply:
        """Command a movement, once."""
        return self._command(command, self._move_timeout, accepted)

    def _command(self, command: str, timeout: float | None, accepted: tuple[int, ...] = (OK,)) -> Reply:
        """One command and its reply; what is not allowed now is tried again for a while."""
        for pause in (*BUSY_PAUSES, None):
            with self._session.lock:
                if not self._session.usable:
                    self._session.reopen()
                    self._introduce()
                reply = self._exchange(command, timeout)
            if reply.error != NOT_ALLOWED or pause is None:
                break
            self.log.warning("%r is not allowed now (%s); again in %g s", command, reply.text, pause)
            time.sleep(pause)
        if reply.error not in accepted:
            raise refusal(command, reply)
        return reply

    def _exchange(self, command: str, timeout: float | None) -> Reply:
        line = self._session.query(command, timeout)
        try:
            return parse(line)
        except ValueError as error:
            self._session.condemn(f"unreadable reply to {command!r}")
            raise LinkError(f"{self._session.address}: unreadable reply to {command!r}: {error}") from error

    def _numbers(self, reply: Reply, least: int) -> list[float]:
        """Leading numbers of a reply, at least so many."""
        numbers = []
        for each in reply.text.split(","):
            try:
                numbers.append(repeatable.decimal(each))
            except ValueError:
                break
        if len(numbers) < least:
            raise self._unreadable(reply, f"not {least} numbers")
        return numbers

    def _whole(self, reply: Reply, least: int) -> list[int]:
        """Leading numbers of a reply, at least so many, which are all whole ones."""
        try:
            return [repeatable.whole(each) for each in reply.text.split(",")[: len(self._numbers(reply, least))]]
        except ValueError as error:
            raise self._unreadable(reply, str(error)) from error

    def _site(self, reply: Reply) -> DieSite:
        """Die of the leading column and row of a reply."""
        column, row, *_ = self._whole(reply, 2)
        return DieSite(column, row)

    def _unreadable(self, reply: Reply, why: str) -> LinkError:
        self._session.condemn("unreadable reply")
        return LinkError(f"{self._session.address}: unreadable reply: {reply.text!r}, {why}")
