"""Values of lot and station files: the decimal number that stands there, in the unit of the entry, or refused."""

import math
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import sim_backends.station
from instruments.roles import quantities as other_side
from sim_backends.array.dies.kinds import load_any_lot
from sim_backends.array.dies.lot import BUILT_IN, LotError
from sim_backends.array.dies.passive_lot import PassiveLot
from sim_backends.array.files import quantity
from sim_backends.array.files.quantity import NUMBER, OHM, SHARE, VOLT, Dimension, Specification
from sim_backends.station import StationError, load_station

KINDS = {name: each for name, each in vars(quantity).items() if isinstance(each, Dimension)}
TWINS = {name: getattr(other_side, name) for name in ("VOLT", "OHM", "METRE", "SHARE", "NUMBER", "CELSIUS", "SECOND")}
near = st.from_regex(r"[+-]?[0-9]{0,4}[.,_ ]?[0-9]{0,4}([eE][+-]?[0-9]{1,3})?[ _,]?[numµkMK°/]?(V|A|Ohm|Ω|S|s|m|%|C)?")


@given(text=st.one_of(st.text(), near, st.floats().map(repr)))
@settings(max_examples=300)
def test_both_sides_of_the_wire_read_a_text_alike(text):
    """The law of the text itself is in tests/instruments/test_quantities.py; this side has the same grammar."""
    for name, there in TWINS.items():
        here = KINDS[name].within(there.least, there.most, above=there.above)
        try:
            expected = there.read(text)
        except ValueError:
            with pytest.raises(ValueError, match="write for example"):
                here.read(text)
        else:
            assert here.read(text) == expected


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(OHM, "5 kOhm", 5e3), (SHARE, "0.4 %", 0.004), (VOLT, 3, 3.0), (OHM, "1e9 Ohm", 1e9), (NUMBER, "45", 45.0)],
)
def test_what_is_right_is_read(kind, text, value):
    assert kind.read(text) == value


@pytest.mark.parametrize(
    "value", ["5 V", "five", True, None, "3 %", math.nan, math.inf, "1,5 kOhm", "0x1F", "1:30", [1]]
)
def test_what_is_no_resistance(value):
    with pytest.raises(ValueError, match="write for example 5 kOhm"):
        OHM.read(value)


def lot_with(tmp_path, name, path, text):
    """A built-in lot with another text for one value."""
    tree = yaml.safe_load((BUILT_IN / f"{name}.yaml").read_text(encoding="utf-8"))
    here = tree
    *parts, last = path.split(".")
    for part in parts:
        here = here[part]
    here[last] = "TEXT"
    file = tmp_path / "lot.yaml"
    file.write_text(yaml.safe_dump(tree).replace("TEXT", text), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("lot", "path", "text", "says"),
    [
        ("mtj", "defects.rate_median", "150 %", "more than 100 %"),
        ("mtj", "defects.rate_median", "0,4 %", "decimal comma"),
        ("mtj", "defects.rate_median", "50 %", "above rate_max"),
        ("mtj", "defects.rate_max", ".nan", "no quantity"),
        ("mtj", "devices.r_p", "yes", "no quantity"),
        ("mtj", "devices.r_p", "1:30", "':30'"),
        ("mtj", "devices.r_p", "1_000", "no quantity"),
        ("mtj", "devices.tmr", "120", "did you mean 120 %"),
        ("mtj", "devices.fresh_ap_share", "50", "did you mean 50 %"),
        ("mtj", "devices.switching.tau0", "1", "more than 1 ms"),
        ("mtj", "wafer.pitch_x", "5", "did you mean 5 mm"),
        ("mtj", "wafer.dies", "true", "not a whole number"),
        ("mtj", "wafer.dies", "36.0", "not a whole number"),
        ("mtj", "geometry.rows", "0x19", "not a whole number"),
        ("mtj", "v_read", "1e999", "beyond what a number can be"),
        ("mtj", "defects.weak_tmr_factor", "[0.4, 0.1]", "does not ascend"),
        ("tio2-8x8", "devices.g_max", "890", "did you mean 890 mS"),
        ("tio2-8x8", "devices.rate_set", "11 kHz", "expected '/s'"),
        ("tio2-8x8", "defects.stuck_lrs", "-1 %", "less than 0 %"),
        ("tio2-8x8", "devices.initial", "[100 uS, .inf]", "no quantity"),
    ],
)
def test_a_lot_file_with_a_slip_is_refused_by_entry(tmp_path, lot, path, text, says):
    with pytest.raises(LotError) as error:
        load_any_lot(str(lot_with(tmp_path, lot, path, text)))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("board: {readout: {v_read_max: .inf}}", "no quantity"),
        ("board: {readout: {v_read_max: yes}}", "no quantity"),
        ("board: {count_max: true}", "not a whole number"),
        ("timing: {pulse_gap: '500,0 ns'}", "decimal comma"),
        ("timing: {pulse_gap: 500 ns}\ntiming: {}", "stands twice"),
        ("seed: 1:30", "not a whole number"),
        ("prober: {temperature: 25 K}", "expected '°C'"),
        ("faults: [{kind: lost_reply, where: board, for: 3 s}]", "number of requests"),
        ("rack: {wiring: {series_resistance: 1e9}}", "more than 1 MOhm"),
    ],
)
def test_a_station_file_with_a_slip_is_refused_by_entry(tmp_path, text, says):
    file = tmp_path / "station.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(StationError) as error:
        load_station(file)
    assert says in str(error.value)


def loose_numbers(model, path=""):
    """Entries of a model that are a bare float or int, or a quantity without bounds."""
    for name, field in model.model_fields.items():
        for hint in _parts(
            typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        ):
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                yield from loose_numbers(hint, f"{path}{name}.")
            elif hint in (float, int):
                yield f"{path}{name}"


def _parts(hint):
    if typing.get_origin(hint) is typing.Annotated:
        declared = any(isinstance(each, Dimension | quantity.Whole) for each in hint.__metadata__)
        return [] if declared else _parts(hint.__origin__)
    parts = typing.get_args(hint)
    return [each for part in parts for each in _parts(part)] if parts else [hint]


@pytest.mark.parametrize("model", [sim_backends.station.StationConfig, load_any_lot("mtj").__class__, PassiveLot])
def test_every_number_of_a_file_has_a_dimension(model):
    assert issubclass(model, Specification) and not list(loose_numbers(model))
