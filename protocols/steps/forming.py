"""Forming the devices of a die, one after the other, with rising pulses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import numpy as np
import xarray as xr

from analysis.record import step_names
from analysis.record.record import Pulse
from instruments.roles.interfaces import LimitError
from mapping.writing.converge import Outcome
from mapping.writing.forming import Forming, FormingRamps
from mapping.writing.touch_up import check_writing
from protocols.bench.bench import Bench, Die
from protocols.bench.conductances import read_ranging
from protocols.source.marks import step

#: The laboratory's settings.
FORMING = Forming()


@step(step_names.FORM)
def form(
    bench: Bench, die: Die, *, settings: Forming = FORMING, scheme: str = "V/2", cells: np.ndarray | None = None
) -> xr.Dataset:
    """Form the devices of a die that do not conduct yet, cell by cell.

    It reads before it pulses: a device that is formed gets no pulse, so a step cut in the middle goes on where it was.
    A ramp begins anew, then.

    Parameters
    ----------
    settings
        Ramp and end.
    scheme
        Bias scheme of the pulses: neighbours see part of each. Half of a forming pulse rewrites what is formed
        already, so form before anything is written.
    cells
        Which, bool ``[kernel, row, column]``; all by default.

    Returns
    -------
    xarray.Dataset
        `g` (S) at the end, `outcome` (`mapping.writing.converge.Outcome`), `pulses` and `amplitude` (V, of the last
        pulse) of every cell. Verdict ``fail`` if one of them was not formed.

    Raises
    ------
    LimitError, SchemeError
        Before any pulse, if the tester cannot do it.
    """
    check_writing(scheme)
    caps = bench.array.capabilities()
    check_forming(bench, settings, scheme)
    shape = (caps.kernels, caps.rows, caps.columns)
    chosen = np.ones(shape, bool) if cells is None else cells
    g, amplitude = np.full((2, *shape), np.nan)
    outcome, pulses = np.zeros(shape, np.int8), np.zeros(shape, np.int32)
    places = [(int(k), int(r), int(c)) for k, r, c in np.argwhere(chosen)]
    for number, place in enumerate(places):
        bench.report("forming", number / len(places))
        only = np.zeros(shape, bool)
        only[place] = True
        ramp = FormingRamps(settings, 1)
        g[place] = _form_cell(bench, place[0], only, ramp, settings, scheme)
        outcome[place], pulses[place], amplitude[place] = ramp.outcome[0], ramp.pulses[0], ramp.last[0]
    return _result(g, outcome, pulses, amplitude, settings)


def check_forming(bench: Bench, settings: Forming, scheme: str) -> None:
    """Refuse a ramp that the tester would refuse on the way.

    Raises
    ------
    LimitError
        Naming the setting.
    """
    caps = bench.array.capabilities()
    if scheme not in caps.schemes:
        raise LimitError(f"bias scheme {scheme!r}: the tester has {', '.join(caps.schemes) or 'none'}")
    if settings.cap > caps.v_max:
        raise LimitError(
            f"forming up to cap {settings.cap:g} V: this station fires {caps.v_max:g} V at most; lower cap and start, "
            "or use a station that can"
        )
    if not caps.width_min <= settings.width <= caps.width_max:
        raise LimitError(
            f"width of {settings.width:g} s: this station fires {caps.width_min:g} to {caps.width_max:g} s"
        )
    if settings.i_max is None:
        return
    bound = bench.array.current_bound(settings.cap)
    if bound is None:
        raise LimitError("i_max: this tester does not say what current its pulses can drive; set i_max none")
    if bound > settings.i_max:
        raise LimitError(
            f"a pulse of {settings.cap:g} V can drive {bound:.3g} A, i_max is "
            f"{settings.i_max:.3g} A: put a larger resistor into the line and say so in the station file"
        )


def _form_cell(
    bench: Bench, kernel: int, only: np.ndarray, ramp: FormingRamps, settings: Forming, scheme: str
) -> float:
    """Form one cell; its conductance as last read (S)."""
    lsb, fired = bench.array.capabilities().dac_lsb, None
    while ramp.going[0]:
        g = read_ranging(bench.array, settings.v_read, only, averages=settings.averages)
        bench.array.keep_readings(fired, g)
        fired = None
        volts = float(np.trunc(ramp.next(g[only])[0] / lsb * (1 + 1e-12)) * lsb)
        if volts:
            fired = bench.array.fire([Pulse(kernel, only[kernel], volts, settings.width, 1, scheme)])
    return float(g[only][0])


def _result(
    g: np.ndarray, outcome: np.ndarray, pulses: np.ndarray, amplitude: np.ndarray, settings: Forming
) -> xr.Dataset:
    dims = ("kernel", "row", "column")
    formed = int(np.count_nonzero(outcome == Outcome.REACHED))
    why = Counter(Outcome(int(code)).words for code in outcome[outcome > Outcome.REACHED])
    attrs = {"verdict": "fail" if why else "pass", "formed": formed, "pulses": int(pulses.sum())}
    if why:
        attrs["reason"] = "not formed: " + ", ".join(f"{count} {words}" for words, count in why.most_common())
    return xr.Dataset(
        {
            "g": (dims, np.where(np.isfinite(g), g, np.nan), {"units": "S"}),
            "outcome": (dims, outcome, {"long_name": "Outcome"}),
            "pulses": (dims, pulses),
            "amplitude": (dims, amplitude, {"units": "V"}),
        },
        attrs=attrs | {"settings": json.dumps(asdict(settings))},
    )
