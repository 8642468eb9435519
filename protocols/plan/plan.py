"""`xbar plan`: what a protocol would do to a lot, what that costs, and whether it can work, before the first volt.

The protocol runs on a costing bench (`protocols.plan.counting_bench`), through the real sequencer and the real order of
entering and leaving dies, with a record in a temporary folder. Every die is the typical die. A step that an equal die
has had with equal inputs is not done again: it has the same result at the same costs. Computations marked with
`planned_as` are not done at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.record.record import Record
from instruments import station as station_files
from instruments.drivers.keysight_33500 import SOURCE_RESISTANCE
from instruments.roles.interfaces import ArrayCapabilities, InstrumentError
from protocols.plan.counting_bench import Costs, Extremes
from protocols.plan.run import CostingStation, PlanRun, Refusal, Tally
from protocols.plan.station import PROBER_EXCHANGE, PlannedStation, planned_station
from protocols.sequencer.parameters import shown
from protocols.sequencer.run import RunSettings
from protocols.sequencer.stopping import RunStopped
from protocols.terminal.user_errors import for_the_user

#: Bytes on the wire for one byte of the traffic file, of a board and of a rack (measured on runs of mtj-mnist and
#: tio2-moons at simulated stations: what a rack is told is text). Masks of 64 x 64 passive cells shrink far more.
TRAFFIC_COMPRESSION, RACK_COMPRESSION = 2.4, 10.5
#: Bytes in the record beside arrays and inputs: of a step, and of a pulse request with its mask (measured likewise).
STEP_BYTES, PULSE_BYTES = 2000, 150
#: Bytes in the record of one cell that is read after it was pulsed: a float32, hardly compressible.
READING_BYTES = 3.7
#: Bytes in the record of a pulse request at a passive die, with what is read afterwards: that is of few cells, those
#: that were pulsed (measured: 1.0 to 1.2 kB, of 8 x 8 cells written one by one and of 64 x 64 written by lines).
PASSIVE_PULSE_BYTES = 1100
#: Share of the dose limit above which a plan warns.
DOSE_WARNING = 0.8


@dataclass(frozen=True)
class StepCount:
    """How often a step function is done in the lot."""

    name: str
    count: int


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes
    ----------
    protocol
        Its name.
    dies
        Dies that have at least one step.
    source
        Where limits and dies come from, in words.
    steps
        Steps by function, in the order in which they first come.
    executed
        Steps that were done on the costing bench; the others were equal to one of them.
    stand_ins
        Computations that were not done, each with how often it is asked for.
    costs
        Sum over the lot.
    dose_max, dose_limit
        Pulses of the cell that gets most, and the smallest limit that was met.
    energy_max
        Joule of the cell that gets most, at most.
    extremes, capabilities
        Largest voltages, and the limits they were checked against.
    current_bound
        Largest current (A) that the largest pulse can drive into a short; None where the tester limits it or that is
        not known.
    wire_times
        Name of a link and seconds that the wire adds on it, for the link of the station or the usual ones.
    record_bytes, traffic_bytes
        Estimated size on disk.
    not_ours
        Instruments of the station file with drivers of others, and how each is switched off.
    understood
        Quantities of the protocol and of the station file as they were read, with their units; a line for each of them.
    warnings, refusals
        What to look at, and what would not work.
    """

    protocol: str
    dies: int
    source: str
    steps: tuple[StepCount, ...]
    executed: int
    stand_ins: dict[str, int]
    costs: Costs
    dose_max: int
    dose_limit: int
    energy_max: float
    extremes: Extremes
    capabilities: ArrayCapabilities
    current_bound: float | None
    wire_times: tuple[tuple[str, float], ...]
    record_bytes: int
    traffic_bytes: int
    not_ours: tuple[str, ...]
    understood: tuple[str, ...]
    warnings: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    @property
    def possible(self) -> bool:
        """Whether nothing was refused."""
        return not self.refusals


def plan_protocol(
    function: Callable[..., Any],
    name: str,
    parameters: dict[str, Any],
    *,
    station: Path | None,
    dies: int | None,
    seed: int,
    like: Path | None,
    lot: str = "mtj",
) -> Plan:
    """Run a protocol on the costing bench.

    Parameters
    ----------
    function, name, parameters
        The protocol, its name in the record and its parameters, as for `protocols.sequencer.execute.execute`.
    station : Path or None
        Station file of the bench; checked without opening a connection.
    dies : int or None
        Only the first so many dies of the route.
    seed : int
        Of the run.
    like : Path or None
        Folder of an earlier run at that station, which tells its limits and dies; else those of a documented station
        with 36 dies are assumed.
    lot : str
        Kind of die that is assumed then, with ``@rack`` if a rack drives it.

    Returns
    -------
    The plan. What would not work is in its `refusals`, not raised.

    Raises
    ------
    RecordError, PlanSourceError
        If `like` holds no survey.
    Exception
        Whatever a fault of the protocol's own code raises.
    """
    planned = planned_station(station, like, lot)
    with tempfile.TemporaryDirectory(prefix="xbar-plan-") as folder, Record.open(folder, kept=False) as record:
        costing = CostingStation(planned)
        run = PlanRun(record, name, RunSettings(seed, dies, stop_after=0), costing)
        try:
            function(run, **parameters)
            run.close(failed=False)
        except Exception as error:
            if isinstance(error, RunStopped) or not for_the_user(error):
                raise
            run.refuse(name, "", error)
        return replace(_plan(run, planned), understood=_understood(function, parameters, station))


def _understood(function: Callable[..., Any], parameters: dict[str, Any], station: Path | None) -> tuple[str, ...]:
    """Quantities as they were read; of a station file only if it can be used."""
    texts = shown(function, parameters)
    own = ["parameters: " + ", ".join(f"{name} {text}" for name, text in texts.items())] if texts else []
    try:
        return (*own, *(station_files.understood(station) if station is not None else ()))
    except InstrumentError:
        return tuple(own)  # its refusal is in the plan


def _plan(run: PlanRun, planned: PlannedStation) -> Plan:
    tally, costing = run.tally, run.station
    costs = costing.costs.copy()
    costs.add(costing.tester.one_time)
    touched = [costing.tester.cells(site) for site in costing.prober.die_sites() if str(site) in tally.dies]
    dose_max = max((int(cells.dose.max()) for cells in touched), default=0)
    record = tally.stored + _noted_bytes(tally, costs, planned.capabilities)
    compression = TRAFFIC_COMPRESSION if planned.resistance is None else RACK_COMPRESSION
    traffic = round((costs.board_bytes + costs.prober_bytes) / compression)
    wiring = tuple(Refusal("station file", "", text) for text in planned.refusals)
    bound = _current_bound(costing.tester.extremes, planned)
    return Plan(
        protocol=run.protocol_name,
        dies=len(tally.dies),
        source=planned.source,
        steps=tuple(StepCount(name, count) for name, count in tally.steps.items()),
        executed=tally.executed,
        stand_ins=dict(tally.stand_ins),
        costs=costs,
        dose_max=dose_max,
        dose_limit=tally.dose_limit,
        energy_max=max((float(cells.energy.max()) for cells in touched), default=0.0),
        extremes=costing.tester.extremes,
        capabilities=planned.capabilities,
        current_bound=bound,
        wire_times=tuple(_wire_times(costs, planned)),
        record_bytes=record,
        traffic_bytes=traffic,
        not_ours=planned.not_ours,
        understood=(),
        warnings=tuple(_warnings(tally, planned, bound, dose_max, record + traffic)),
        refusals=(*wiring, *tally.refusals.values()),
    )


def _current_bound(extremes: Extremes, planned: PlannedStation) -> float | None:
    """Of a generator without compliance: what stands in its line bounds the current."""
    return None if planned.resistance is None else max(extremes.pulse_high, -extremes.pulse_low) / planned.resistance


def _noted_bytes(tally: Tally, costs: Costs, caps: ArrayCapabilities) -> int:
    """Bytes in the record beside results and inputs: steps, pulses, and what is read after these."""
    of_pulse = PASSIVE_PULSE_BYTES if caps.schemes else PULSE_BYTES + round(READING_BYTES * caps.rows * caps.columns)
    return tally.steps.total() * STEP_BYTES + costs.pulse_requests * of_pulse


def _wire_times(costs: Costs, planned: PlannedStation) -> Iterator[tuple[str, float]]:
    waited = costs.prober_requests * PROBER_EXCHANGE
    for link in planned.links:
        yield link.name, waited + link.time(costs.board_requests, costs.board_bytes)


def _warnings(tally: Tally, planned: PlannedStation, bound: float | None, dose_max: int, disk: int) -> Iterator[str]:
    free = shutil.disk_usage(Path.cwd()).free
    if disk > free:
        yield f"the disk here has {free / 1e9:.2g} GB left, the run writes {disk / 1e9:.2g} GB; choose another --out"
    yield from (text if count == 1 else f"{text} ({count} times)" for text, count in tally.warnings.items())
    if bound and planned.resistance == SOURCE_RESISTANCE:
        yield (
            f"a pulse can drive {1e3 * bound:.0f} mA into a cell that shorts: the generator has no compliance, and no "
            "resistor is in its lines. If your dies do not bear that, put one in and say so (series_resistance)"
        )
    if not planned.checked:
        yield "no station file was given: its wiring was not checked"
    if dose_max > DOSE_WARNING * tally.dose_limit:
        yield f"a cell gets {dose_max} of the {tally.dose_limit} pulses that it may have"
    if tally.stand_ins:
        yield f"not in any time: {', '.join(tally.stand_ins)} (not done in a plan)"
