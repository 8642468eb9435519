"""Voltages of a protocol against what the station's array tester allows, checked before anything moves."""

from __future__ import annotations

import xarray as xr

from instruments.roles.interfaces import LimitError
from mapping.placement.coding import AP, P
from mapping.writing.converge import ConvergeToTarget
from mapping.writing.schedule import PulseSettings


class SettingError(ValueError):
    """A parameter of the run makes no sense; the message names it, and what does."""


def check_read_voltage(survey: xr.Dataset, v_read: float) -> None:
    """Refuse a read voltage that the tester would refuse, or that its converter cannot tell from nothing.

    Parameters
    ----------
    survey : xarray.Dataset
        What `Run.survey` gives.
    v_read : float
        Read voltage (V). Half of it is put out too, to measure how conductance depends on voltage.

    Raises
    ------
    LimitError
        With the voltages that are possible.
    """
    limits = survey.attrs["limits"]
    smallest, largest = 2 * limits["dac_lsb"], limits["v_read_max"]
    if not smallest <= abs(v_read) <= largest:  # written so that NaN is refused
        raise LimitError(
            f"v_read {v_read:g} V: this station reads with {smallest:.2g} V to {largest:g} V, either sign; "
            "choose another, such as --set v_read=100mV"
        )


def check_pulses(survey: xr.Dataset, pulse: PulseSettings) -> None:
    """Refuse pulses of which an attempt would go beyond what the tester fires: a die would be left half written.

    Raises
    ------
    LimitError
        With the limits.
    """
    limits = survey.attrs["limits"]
    for state in (AP, P):
        strongest = pulse.amplitude(state, pulse.attempts_max - 1)
        if not limits["v_min"] <= strongest <= limits["v_max"]:
            raise LimitError(
                f"pulses to {'AP' if state == AP else 'P'} go up to {strongest:g} V, this station fires "
                f"{limits['v_min']:g} V to {limits['v_max']:g} V; see pulse_limit in the station file"
            )


def check_scheme(survey: xr.Dataset, scheme: str) -> None:
    """Refuse to write passive cells by a bias scheme that the tester does not have, or cells that have gates.

    Raises
    ------
    LimitError
        With the schemes that there are.
    """
    there = survey.attrs["schemes"]
    if scheme not in there:
        has = (
            f"it has {', '.join(there)}" if there else f"its cells ({survey.attrs['cell']}) have gates, which need none"
        )
        raise LimitError(
            f"bias scheme {scheme!r}: this station does not have it; {has}. Choose another --scheme or lot"
        )


def check_caps(survey: xr.Dataset, settings: ConvergeToTarget) -> None:
    """Refuse caps of analog writing beyond what the tester fires: cells would be given up half-way.

    Raises
    ------
    LimitError
        Naming the cap.
    """
    limits = survey.attrs["limits"]
    for name, cap in (("cap_set", settings.cap_set), ("cap_reset", settings.cap_reset)):
        if not limits["v_min"] <= cap <= limits["v_max"]:
            raise LimitError(
                f"{name} of {cap:g} V: this station fires {limits['v_min']:g} V to {limits['v_max']:g} V; map with "
                "lower caps (--cap), or see pulse_limit in the station file"
            )
