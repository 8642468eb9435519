"""Parameters from text: what is written comes out, what is not understood is refused with what there is."""

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from protocols.parameters import ParameterError, parameters_of, parse

PREFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9, "k": 1e3}


def example(
    run,
    *,
    v_read: float = 0.1,
    width: float = 200e-9,
    share: float | None = None,
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


@pytest.mark.parametrize("name", ["v_read", "width", "share"])
@pytest.mark.parametrize("text", ["2e2 ns", "1e-1mV", "1E3kOhm"])
def test_an_exponent_and_a_prefix_together_are_refused(name, text):
    """The library that reads quantities leaves the prefix out: a thousand times too much."""
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
    with pytest.raises(ParameterError, match="repeats='none' is not a whole number"):
        parse(example, {"repeats": "none"})
    assert parse(example, {"share": "5 %"})["share"] == pytest.approx(0.05)


def test_a_path_and_a_name_with_dashes():
    assert parse(example, {"folder": "a/b"}) == {"folder": Path("a/b")}
    assert parse(example, {"v-read": "100mV"}) == {"v_read": pytest.approx(0.1)}


@pytest.mark.parametrize(("text", "unit"), [("100 mA", "A"), ("5kOhm", "Ohm"), ("2 s", "s")])
def test_a_voltage_in_another_unit_is_a_slip(text, unit):
    with pytest.raises(ParameterError, match=f"is in {unit}; v_read is given in V"):
        parse(example, {"v_read": text})


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
