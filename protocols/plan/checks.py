"""What a plan refuses beyond single requests: pulses, schedules and doses that would get stuck half-way.

The costing bench needs one attempt to write a cell, so later attempts and limits over the life of a cell are looked at
here, before a step begins.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from instruments.roles import limits
from instruments.roles.interfaces import ArrayCapabilities, LimitError
from mapping.dies.die_record import HARD_DEFECTS, DieRecord
from mapping.placement.coding import AP, DONT_CARE, P
from mapping.writing.analog_schedule import AnalogSchedule
from mapping.writing.conductance_targets import TargetError, check_tolerance
from mapping.writing.schedule import PulseSettings, WriteSchedule
from protocols.bench.bench import DOSE_LIMIT
from protocols.plan.counting_dies import Cells
from protocols.steps.analog_write import check_analog


class PlanRefusedError(ValueError):
    """A step could not work at the station that was planned for."""


def check_pulse_settings(caps: ArrayCapabilities, pulse: PulseSettings) -> None:
    """Refuse pulses of which any attempt would be beyond a limit: a die would be left half written.

    Raises
    ------
    PlanRefusedError
        With the limit.
    """
    try:
        for state in (AP, P):
            limits.pulse_code(caps, pulse.amplitude(state, pulse.attempts_max - 1))
        limits.pulse_width_ns(caps, pulse.width)
    except LimitError as error:
        raise PlanRefusedError(
            f"attempt {pulse.attempts_max} of {pulse.attempts_max}: {error}; lower amplitude_ceiling or attempts_max "
            "of the pulses, or raise pulse_limit in the station file if the dies bear it"
        ) from error


def check_schedule(caps: ArrayCapabilities, schedule: WriteSchedule) -> None:
    """Refuse a schedule whose pulses, reads, kernels or masks the tester does not have.

    A batch is of one kernel, so no two kernels on common lines are ever pulsed at once; what is looked at here is that
    the schedule means the kernels, and the lines they share, that the tester has.

    Raises
    ------
    PlanRefusedError
        Naming what does not suit.
    """
    different = [name for name, value in schedule.geometry.to_dict().items() if _listed(getattr(caps, name)) != value]
    if different:
        raise PlanRefusedError(
            f"the schedule is for dies of another {different[0]} than the tester has; make it again for this geometry"
        )
    check_pulse_settings(caps, schedule.pulse)
    try:
        limits.read_codes(caps, schedule.verify.v_read)
        limits.check_averages(caps, schedule.verify.averages)
        for batch in schedule.batches:
            limits.check_kernel(caps, batch.kernel)
            limits.check_mask(caps, batch.mask)
    except LimitError as error:
        raise PlanRefusedError(
            f"the schedule cannot be written here: {error}; make it again for this tester"
        ) from error


def check_dose(schedule: WriteSchedule, cells: Cells, record: DieRecord | None) -> None:
    """Refuse to write cells that have had all the pulses that their schedule allows them.

    Raises
    ------
    PlanRefusedError
        With dose and limit.
    """
    wrong = (schedule.states != DONT_CARE) & (schedule.states != cells.state)
    if record is not None:
        wrong &= ~np.isin(record.cell_class, HARD_DEFECTS)
    spent = wrong & (cells.dose >= schedule.pulse.dose_limit)
    if spent.any():
        raise PlanRefusedError(
            f"{np.count_nonzero(spent)} cells that are to be written have had {cells.dose[spent].max()} pulses by "
            f"then, dose_limit is {schedule.pulse.dose_limit}: they would be given up. Raise dose_limit, or "
            "write less often"
        )


def check_analog_schedule(caps: ArrayCapabilities, schedule: AnalogSchedule, cells: Cells) -> None:
    """Refuse an analog schedule that the tester would refuse on the way, or that asks for more than a read can tell.

    Raises
    ------
    PlanRefusedError
        Naming the setting, or the cell that has had its pulses.
    """
    targets = schedule.targets
    different = [name for name, value in schedule.geometry.to_dict().items() if _listed(getattr(caps, name)) != value]
    if different:
        raise PlanRefusedError(
            f"the schedule is for dies of another {different[0]} than the tester has; make it again for this geometry"
        )
    try:
        check_analog(caps, schedule.settings, schedule.scheme)
        check_tolerance(float(np.nanmin(targets.tolerance[targets.wanted])), schedule.settings.averages)
    except (LimitError, TargetError) as error:
        raise PlanRefusedError(f"the schedule cannot be written here: {error}") from error
    spent = targets.wanted & (cells.dose >= schedule.dose_limit)
    if spent.any():
        kernel, row, column = (int(at) for at in np.argwhere(spent)[0])
        raise PlanRefusedError(
            f"cell [{row}, {column}] of kernel {kernel} has had {cells.dose[kernel, row, column]} pulses by then, "
            f"dose_limit is {schedule.dose_limit}: it would be given up. Raise dose_limit, or write less often"
        )


def check_life(cells: Cells) -> None:
    """Refuse more pulses to a cell than the bench lets through over its life.

    Raises
    ------
    PlanRefusedError
        With dose and limit.
    """
    if cells.dose.max() > DOSE_LIMIT:
        raise PlanRefusedError(
            f"a cell would have had {cells.dose.max()} pulses, more than {DOSE_LIMIT} over its life; pulse less often"
        )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
