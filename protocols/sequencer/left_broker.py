"""The broker of a lot's run as other programs of the same user find it: alive, hanging, or gone with the station on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import psutil

from instruments.broker.client import BrokerClient, BrokerError
from instruments.broker.kept_recipes import forget_recipes, make_kept_safe, write_private
from instruments.roles.off_recipe import Outcome
from protocols.source.trust import state_folder

#: Seconds for a process that was ended to be gone.
_GONE = 5.0


def broker_file(folder: Path) -> Path:
    """Where a lot's running broker can be found by other programs of the same user."""
    return folder / "broker.json"


def recipes_file(token: str) -> Path | None:
    """Where what makes the instruments of a broker safe outlives it; not in the lot's folder, for that is handed on."""
    state = state_folder()
    if state is None:
        return None
    home = state / "stations"
    with contextlib.suppress(OSError):  # where it cannot be written, it will be said when it is to be
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home / f"{hashlib.sha256(token.encode()).hexdigest()[:32]}.json"


@dataclass(frozen=True)
class KnownBroker:
    """What `broker_file` says of a broker."""

    port: int
    token: str
    pid: int
    started: float
    run: int

    def keep(self, folder: Path) -> None:
        """Tell other programs of this user how to reach it.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        write_private(broker_file(folder), json.dumps(vars(self)))

    def process(self) -> psutil.Process | None:
        """Its process, if that lives."""
        with contextlib.suppress(psutil.Error, ValueError, OverflowError):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    def visit(self) -> BrokerClient:
        """A conversation with it.

        Raises
        ------
        BrokerError
            It is gone, or it hangs.
        """
        if self.process() is None:
            raise BrokerError("the broker of this run is gone")
        if self.stopped():
            raise BrokerError(f"the broker of this run, process {self.pid}, was stopped")
        return BrokerClient(self.port, self.token, role="visitor")

    def stopped(self) -> bool:
        """Whether it is there and does nothing, as after Ctrl-Z."""
        with contextlib.suppress(psutil.Error):
            process = self.process()
            return process is not None and process.status() == psutil.STATUS_STOPPED
        return False

    def left_on(self) -> bool:
        """Whether it ended without having made its station safe."""
        file = recipes_file(self.token)
        return self.process() is None and file is not None and file.exists()

    def forget(self) -> None:
        """Its station is in other hands."""
        forget_recipes(recipes_file(self.token))


def known_broker(folder: Path) -> KnownBroker | None:
    """The broker that the file in a lot's folder tells of, if it makes sense; it may be gone."""
    try:
        said = json.loads(broker_file(folder).read_text(encoding="utf-8"))
        return KnownBroker(
            int(said["port"]), str(said["token"]), int(said["pid"]), float(said["started"]), int(said["run"])
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def make_station_safe(known: KnownBroker, reason: str) -> tuple[list[Outcome], str]:
    """Make the station of a broker safe: by it, or, if it hangs or is gone, over connections of this process.

    A broker that hangs holds the connections, and most instruments take one client: it is ended first.

    Returns
    -------
    What became of each instrument, and what was done about the broker ("" if it did its work).

    Raises
    ------
    BrokerError
        Neither was possible; the message says what to do.
    """
    try:
        visitor = known.visit()
        outcomes = visitor.make_safe(reason)
        visitor.end()
        return outcomes, ""
    except BrokerError:
        done = list[str]()
    file = recipes_file(known.token)
    try:
        outcomes = [] if file is None else make_kept_safe(file, lambda: done.append(_ended(known)))
    except ValueError as error:
        raise BrokerError(f"{_ended(known)}; {error}: see to the station by hand") from error
    if not outcomes:
        raise BrokerError(f"{_ended(known)}, and no instrument is known that it left on: see to the station by hand")
    return outcomes, done[0]


def _ended(known: KnownBroker) -> str:
    """End a broker that does not answer, if it lives; what was done."""
    process, how = known.process(), "was stopped" if known.stopped() else "did not answer"
    if process is None:
        return "its broker is gone"
    try:
        process.kill()
        process.wait(_GONE)
    except psutil.Error as fault:
        raise BrokerError(
            f"the broker, process {known.pid}, holds the instruments, {how} and cannot be ended ({fault}): end that "
            "process, then give xbar abort again"
        ) from fault
    return f"its broker, process {known.pid}, held the instruments and {how}; it was ended"
