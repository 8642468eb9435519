"""`xbar abort`: end a run now from another terminal, also one that hangs, and one that died and left its station on."""

from __future__ import annotations

import time
from pathlib import Path

from analysis.record.record import running, send_request
from instruments.broker.client import BrokerError
from instruments.roles.interfaces import InstrumentError
from protocols.sequencer.left_broker import known_broker, make_station_safe

#: Seconds that a run has to abort by itself, before the broker is asked to make its station safe.
PATIENCE = 5.0


class NotSafeError(InstrumentError):
    """Not all of a station could be made safe; the message says what is left to do by hand."""


def abort(folder: Path) -> str:
    """Ask the process that does the run to abort; if it does not, or is gone, make the station safe without it.

    Returns
    -------
    What came of it, for the user.

    Raises
    ------
    RecordError
        If no run of the lot is running or paused, and none has left its station on.
    NotSafeError
        If not all of the station is safe.
    """
    known = known_broker(folder)
    if running(folder) is None and known is not None and (known.process() is not None or known.left_on()):
        return _without_the_run(folder, f"run {known.run} is gone")
    send_request(folder, "abort")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if running(folder) is None:
            return f"the run has ended; xbar status {folder} says how"
        time.sleep(0.1)
    said = _without_the_run(folder, "the run does not answer")
    return said if running(folder) is None else f"{said}. Its process may be ended now"


def _without_the_run(folder: Path, why: str) -> str:
    """Make the station safe over its broker, or over connections of this process."""
    known = known_broker(folder)
    if known is None:
        raise NotSafeError(f"{why}, and no broker of {folder} is known: see to the station by hand, then end the run")
    try:
        outcomes, done = make_station_safe(known, "xbar abort")
    except BrokerError as error:
        raise NotSafeError(f"{why}; {error}") from error
    faults = "; ".join(f"{outcome.name}: {outcome.fault}" for outcome in outcomes if outcome.fault)
    if faults:
        raise NotSafeError(
            f"{why}; {done or 'its broker tried'}. NOT ALL OF THE STATION IS SAFE: {faults}. See to it by hand"
        )
    how = f"{done}. xbar abort made the station safe itself" if done else "its station was made safe over the broker"
    return f"{why}; {how}: grounded, outputs off, needles up"
