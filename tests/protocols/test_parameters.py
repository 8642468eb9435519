"""Parameters from text: what is written comes out, what is not understood is refused with what there is."""

import math
import typing
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from instruments.roles.quantities import PulseWidth, Share
from protocols.sequencer.parameters import ParameterError, dimension_of, parameters_of, parse, shown
from protocols.source.catalogue import SHIPPED, find

PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "k": 1e3}


def example(
    run,
    *,
    v_read: float = 0.1,
    width: PulseWidth = 200e-9,
    share: Share | None = None,
    scale: float = 1.0,
    r_series: float = 0.0,
    repeats: int = 10,
    limit: int | None = None,
    fast: bool = False,
    folder: Path | None = None,
    name: str = "x",
):
    """All kinds of parameters."""


@given(st.floats(-1e3, 1e3, allow_subnormal=False), st.sampled_from(sorted(PREFIXES)), st.sampled_from(["", " "]))
def test_a_voltage_with_any_prefix(value, prefix, space):
    assume("e" not in repr(value))
    (read,) = parse(example, {"v_read": f"{value!r}{space}{prefix}V"}).values()
    assert read == pytest.approx(value * PREFIXES[prefix], rel=1e-12)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_without_unit_is_read_to_the_last_bit(value):
    assert parse(example, {"v_read": repr(value)}) == {"v_read": value}


@pytest.mark.parametrize(("name", "text"), [("width", "2e2 ns"), ("v_read", "1e-1mV"), ("r_series", "1E3kOhm")])
def test_an_exponent_and_a_prefix_together_are_refused(name, text):
    with pytest.raises(ParameterError, match="not both"):
        parse(example, {name: text})


@given(st.integers())
def test_whole_numbers(value):
    assert parse(example, {"repeats": str(value), "limit": str(value)}) == {"repeats": value, "limit": value}


@given(st.text(min_size=1))
def test_text_stays_as_it_is(value):
    assert parse(example, {"name": value}) == {"name": value}


@given(st.text())
def test_nonsense_is_refused_or_a_number_never_something_else(text):
    for name, kind in (("v_read", float), ("repeats", int), ("fast", bool)):
        try:
            (value,) = parse(example, {name: text}).values()
        except ParameterError as error:
            assert name in str(error)
        else:
            assert type(value) is kind


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("no", False), ("0", False)])
def test_yes_and_no(text, value):
    assert parse(example, {"fast": text})["fast"] is value


def test_none_where_it_is_allowed():
    assert parse(example, {"share": "none", "folder": "None"}) == {"share": None, "folder": None}
    with pytest.raises(ParameterError, match="repeats: 'none' is not a whole number"):
        parse(example, {"repeats": "none"})
    assert parse(example, {"share": "5 %"})["share"] == pytest.approx(0.05)


def test_a_path_and_a_name_with_dashes():
    assert parse(example, {"folder": "a/b"}) == {"folder": Path("a/b")}
    assert parse(example, {"v-read": "100mV"}) == {"v_read": pytest.approx(0.1)}


@pytest.mark.parametrize(("text", "unit"), [("100 mA", "A"), ("5kOhm", "Ohm"), ("2 s", "s")])
def test_a_voltage_in_another_unit_is_a_slip(text, unit):
    with pytest.raises(ParameterError, match=f"is in '[mk]?{unit}', expected 'V'"):
        parse(example, {"v_read": text})


@pytest.mark.parametrize("text", ["0,1 V", "1.000,5", ".nan", "nan", "inf", "yes", "1_0", "1 0", "5 %", "0.1 K"])
def test_what_is_no_voltage_is_refused(text):
    with pytest.raises(ParameterError, match="v_read: "):
        parse(example, {"v_read": text})


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("width", "500nV", "width: '500nV' is in 'nV', expected 's'"),
        ("width", "200", "more than 1 s"),
        ("width", "0", "not above 0 s"),
        ("share", "150 %", "more than 100 %"),
        ("share", "5", "did you mean 5 %"),
        ("scale", "500nV", "declare it in the protocol, such as scale: Seconds"),
        ("scale", "5 %", "declare it in the protocol"),
        ("scale", "1,5", "write a point for a decimal comma"),
        ("repeats", "1_0", "not a whole number"),
        ("repeats", "٣", "not a whole number"),
        ("fast", "maybe", "not yes or no"),
    ],
)
def test_a_value_that_is_not_of_the_declared_kind(name, text, says):
    with pytest.raises(ParameterError) as error:
        parse(example, {name: text})
    assert says in str(error.value)


def test_an_undeclared_number_goes_by_its_name_or_is_plain():
    assert parse(example, {"scale": "2.5", "r_series": "5 kOhm"}) == {"scale": 2.5, "r_series": 5e3}
    assert parse(example, {"width": "200 ns"}) == {"width": 2e-7}


def test_what_was_understood_can_be_shown_with_units():
    assert shown(example, {"v_read": 0.2, "share": 0.05}) == {
        "v_read": "200 mV", "width": "200 ns", "share": "5 %", "scale": "1", "r_series": "0 Ohm",
    }  # fmt: skip


def test_every_float_of_a_shipped_protocol_has_a_dimension_and_bounds():
    loose = []
    for name in SHIPPED:
        hints = typing.get_type_hints(find(name), include_extras=True)
        for parameter in parameters_of(find(name)):
            kind = dimension_of(parameter, hints[parameter])
            loose += [f"{name}: {parameter}"] if kind is not None and not math.isfinite(kind.most) else []
    assert not loose


def test_an_unknown_name_is_answered_with_what_there_is():
    with pytest.raises(ParameterError, match=r"example has no parameter 'voltage'; it has: v_read=0\.1, width=2e-07"):
        parse(example, {"voltage": "1"})


def test_a_parameter_without_default_must_be_given():
    def needs(run, schedule: Path, *, v: float = 1.0):
        """Needs one."""

    with pytest.raises(ParameterError, match="needs needs schedule: give --set schedule=VALUE"):
        parse(needs, {})
    assert parse(needs, {"schedule": "a.h5"}) == {"schedule": Path("a.h5")}
    assert list(parameters_of(needs)) == ["schedule", "v"]
