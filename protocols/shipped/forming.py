"""`xbar run forming`: form the devices of every die that do not conduct yet, with rising pulses."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from instruments.roles.interfaces import LimitError
from instruments.roles.quantities import Compliance, Ohms, PulseLimit, PulseWidth
from mapping.dies.array_cells import cells_of
from mapping.writing.forming import Forming
from mapping.writing.touch_up import check_writing
from protocols.bench.checks import check_read_voltage, check_scheme
from protocols.bench.contact import ContactRule
from protocols.sequencer.run import Run, protocol
from protocols.steps.characterise import check_contact
from protocols.steps.forming import form


@protocol
def form_lot(
    run: Run,
    *,
    cells: str = "all",
    v_start: PulseLimit = 3.5,
    v_step: PulseLimit = 0.01,
    v_cap: PulseLimit = 10.0,
    r_formed: Ohms = 20e3,
    t_width: PulseWidth = 200e-9,
    i_max: Compliance | None = None,
    scheme: str = "V/2",
    contact: str = "leakage",
) -> Table:
    """Form every device by rising pulses until its resistance is low and stays so.

    Parameters
    ----------
    cells : str
        ``all``, ``diagonal``, or rows and columns: ``"3,4 0,7"``.
    v_start, v_step, v_cap : float
        First amplitude, increment and highest amplitude (V).
    r_formed : float
        A device of at most this resistance (Ohm) is formed.
    t_width : float
        Pulse width (s).
    i_max : float, optional
        Largest current (A) that a pulse may drive into a device that has just become conducting.
    scheme : str
        Bias scheme of the pulses.
    contact : str
        How contact with a die is found that may conduct nowhere yet: ``leakage`` (of its cells, above what is measured
        in the air), ``cells 0,0 7,7`` (row,column of a test structure that conducts in every state), ``trusted`` (your
        word), ``conduction`` (of formed cells).
    """
    settings = Forming(v_start, v_step, v_cap, r_formed, width=t_width, i_max=i_max)
    check_writing(scheme)
    survey = run.survey()
    check_read_voltage(survey, settings.v_read)
    check_scheme(survey, scheme)
    if not settings.cap <= survey.attrs["limits"]["v_max"]:
        raise LimitError(
            f"v_cap of {settings.cap:g} V: this station fires {survey.attrs['limits']['v_max']:g} V at most; lower "
            "v_cap and v_start, or see pulse_limit in the station file"
        )
    geometry = survey.attrs["geometry"]
    run.contact = ContactRule.parse(contact, geometry["rows"], geometry["columns"])
    chosen = np.zeros((geometry["kernels"], geometry["rows"], geometry["columns"]), bool)
    for row_at, column in cells_of(cells, geometry["rows"], geometry["columns"]):
        chosen[:, row_at, column] = True
    table = Table("die", "verdict", "cells", "formed", "pulses", "what is not formed")
    for die in run.dies():
        row = [die.name, "could not be done"]
        with run.attempt(die):
            if run.step(check_contact, die, by=contact).attrs["verdict"] == "pass":
                a = run.step(form, die, settings=settings, scheme=scheme, cells=chosen).attrs
                row = [die.name, a["verdict"], str(int(chosen.sum())), str(a["formed"]), str(a["pulses"])]
                row += [a.get("reason", "")]
            else:
                row = [die.name, "no contact"]
        table.add_row(*row)
    return table
