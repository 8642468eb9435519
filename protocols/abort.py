"""`xbar abort`: end a run now from another terminal, also one that hangs."""

from __future__ import annotations

import json
import time
from pathlib import Path

from analysis.record import running, send_request
from instruments.broker_client import BrokerClient, BrokerError
from protocols.open_station import broker_file

#: Seconds that a run has to abort by itself, before the broker is asked to make its station safe.
PATIENCE = 5.0


def abort(folder: Path) -> str:
    """Ask the process that does the run to abort; if it does not, have the broker make the station safe.

    Returns
    -------
    What came of it, for the user.

    Raises
    ------
    RecordError
        If no run of the lot is running or paused.
    """
    send_request(folder, "abort")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if running(folder) is None:
            return f"the run has ended; xbar status {folder} says how"
        time.sleep(0.1)
    return f"the run does not answer; {_by_broker(folder)}"


def _by_broker(folder: Path) -> str:
    """Make the station safe over the process that holds its connections."""
    try:
        known = json.loads(broker_file(folder).read_text(encoding="utf-8"))
        visitor = BrokerClient(int(known["port"]), str(known["token"]), role="visitor")
        outcomes = visitor.make_safe("xbar abort")
        visitor.end()
    except (OSError, ValueError, KeyError, TypeError, BrokerError) as error:
        return f"no broker of this folder can be reached ({error}): see to the station by hand, then end the process"
    faults = "; ".join(f"{outcome.name}: {outcome.fault}" for outcome in outcomes if outcome.fault)
    if faults:
        return f"NOT ALL OF THE STATION IS SAFE: {faults}. See to it by hand"
    return "its station was made safe over the broker: grounded, needles off. The process itself may be ended now"
