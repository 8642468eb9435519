"""Programming a saved schedule onto dies and verifying it: what `xbar program` runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.table import Table

from instruments.roles.quantities import ReadVoltage
from mapping.dies.analog_die import AnalogDie
from mapping.dies.die_record import DieRecord
from mapping.writing.analog_schedule import FORMAT as ANALOG
from mapping.writing.analog_schedule import AnalogSchedule
from mapping.writing.conductance_targets import TargetError, check_tolerance
from mapping.writing.schedule import WriteSchedule
from mapping.writing.schedule_file import format_of
from protocols.bench.bench import Die
from protocols.bench.checks import check_caps, check_pulses, check_read_voltage, check_scheme
from protocols.sequencer.run import Run, protocol
from protocols.steps.analog_write import write_analog
from protocols.steps.characterise import WRITE, check_contact, measure_states
from protocols.steps.characterise_analog import PROBE, measure_analog, within_caps
from protocols.steps.write_verify import program


class GeometryError(ValueError):
    """The schedule is for dies of another geometry."""


@protocol
def program_lot(run: Run, schedule: Path, *, v_read: ReadVoltage = 0.1) -> Table:
    """Measure each die, program the schedule by write-verify, and show how many cells are right.

    Parameters
    ----------
    schedule : Path
        A schedule file made by `xbar map`, of states or of conductances.
    v_read : float
        Read voltage (V); that of an analog schedule is its own.
    """
    if format_of(schedule) == ANALOG:
        return _program_analog_lot(run, AnalogSchedule.load(schedule), schedule.name)
    plan = WriteSchedule.load(schedule)
    check_geometry(run, plan)
    check_read_voltage(run.survey(), v_read)
    check_read_voltage(run.survey(), plan.verify.v_read)
    for pulse in (WRITE, plan.pulse):
        check_pulses(run.survey(), pulse)
    table = Table("die", "verdict", "cells", "right", "gave up", "known broken", "pulses", title=schedule.name)
    for die in run.dies():
        row = [die.name, "could not be done"]
        with run.attempt(die):
            row = _program_die(run, die, plan, v_read)
        table.add_row(*row)
    return table


def _program_die(run: Run, die: Die, plan: WriteSchedule, v_read: float) -> list[str]:
    """The steps of one die, and its row of the table."""
    if run.step(check_contact, die).attrs["verdict"] != "pass":
        return [die.name, "no contact"]
    found = run.step(measure_states, die, v_read=v_read)
    if found.attrs["verdict"] != "pass":
        return [die.name, found.attrs.get("reason", "too few good cells")]
    measured = DieRecord.from_dataset(found)
    a = run.step(program, die, schedule=plan, die_record=measured).attrs
    counts = (a["cells"], a["verified"], a["gave_up"], a["known_broken"], a["pulses"])
    return [die.name, a["verdict"], *map(str, counts)]


def _program_analog_lot(run: Run, plan: AnalogSchedule, name: str) -> Table:
    """As `program_lot`, for conductances."""
    check_geometry(run, plan)
    check_read_voltage(run.survey(), plan.settings.v_read)
    check_scheme(run.survey(), plan.scheme)
    check_caps(run.survey(), plan.settings)
    check_tolerance(float(np.nanmin(plan.targets.tolerance[plan.targets.wanted])), plan.settings.averages)
    columns = (
        "die",
        "verdict",
        "cells",
        "in tolerance",
        "mean error",
        "gave up",
        "known broken",
        "passes",
        "pulses a cell",
    )
    table, said = Table(*columns, title=name), list[str]()
    for die in run.dies():
        row = [die.name, "could not be done"]
        with run.attempt(die):
            row = _program_analog_die(run, die, plan, said)
        table.add_row(*row)
    table.caption, table.caption_justify = "\n".join(said) or None, "left"
    return table


def _program_analog_die(run: Run, die: Die, plan: AnalogSchedule, said: list[str]) -> list[str]:
    """The steps of one die, and its row of the table; what there is to say beside it is appended."""
    if run.step(check_contact, die).attrs["verdict"] != "pass":
        return [die.name, "no contact"]
    probe = within_caps(PROBE, plan.settings)
    found = run.step(measure_analog, die, settings=plan.settings, scheme=plan.scheme, probe=probe)
    if found.attrs["verdict"] != "pass":
        return [die.name, found.attrs.get("reason", "too few good cells")]
    measured = AnalogDie.from_dataset(found)
    try:
        plan.targets.check(plan.settings, measured)
    except TargetError as error:
        run.verdict(die, "fail", reason=str(error))
        said.append(f"{die.name}: {error}")
        return [die.name, "not written"]
    a = run.step(write_analog, die, schedule=plan, found=measured).attrs
    shares = f"{a['within_tolerance']:.1%}", f"{a['mean_error']:.2%}"
    counts = str(a["gave_up"]), str(a["known_broken"]), str(a["passes"]), f"{a['pulses_per_cell']:.1f}"
    return [die.name, a["verdict"], str(a["cells"]), *shares, *counts]


def check_geometry(run: Run, schedule: WriteSchedule | AnalogSchedule) -> None:
    """Refuse a schedule that was made for another kind of die, before anything moves.

    Raises
    ------
    GeometryError
        Naming the first difference.
    """
    there = run.survey().attrs["geometry"]
    wanted = schedule.geometry.to_dict()
    for key, value in wanted.items():
        if there[key] != value:
            raise GeometryError(
                f"the schedule is for dies with {key}={value}, the station's dies have {there[key]}; "
                "make it again with xbar map --geometry, or choose other dies (--lot of a plan or a simulated run)"
            )
