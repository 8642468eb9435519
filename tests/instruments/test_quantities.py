"""Quantities as text: a value is the decimal number that stands there, rounded once, or it is refused."""

import inspect
import math
import re
import typing
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instruments.roles import quantities
from instruments.roles.quantities import CELSIUS, METRE, NUMBER, OHM, SECOND, SHARE, VOLT, Dimension, Whole

PULSE = VOLT.within(0.0, 20.0, above=True, example="900 mV")
OVERTRAVEL = METRE.within(0.0, 1e-3, example="50 um")
KINDS = {name: each for name, each in vars(quantities).items() if isinstance(each, Dimension)}


def by_the_grammar(text: str, symbols: tuple[str, ...], prefixed: bool) -> float | None:
    """The value of a text by the grammar of docs/protocols.md, worked out in decimals; None where it is no word of it.

    Written for this test alone, from the text of the document.
    """
    number = re.match(r"(?P<digits>[+-]?[0-9]*(?P<point>\.?)[0-9]*)(?P<exponent>[eE][+-]?[0-9]+)?", text, re.ASCII)
    digits, exponent = number["digits"], number["exponent"] or ""
    if not any(each in "0123456789" for each in digits):
        return None
    unit = text[number.end() :]
    unit = unit[1:] if unit.startswith(" ") and len(unit) > 1 else unit
    powers = {"f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "k": 3, "M": 6, "G": 9}
    power = 0
    if unit == "%" and "%" in symbols:
        power = -2
    elif unit and unit not in symbols:
        if not prefixed or unit[0] not in powers or unit[1:] not in symbols:
            return None
        power = powers[unit[0]]
    if power and exponent:
        return None
    if len(exponent) > 8:
        return None
    value = float(Decimal(digits + exponent).scaleb(power) if not exponent else Decimal(digits + exponent))
    return value if math.isfinite(value) else None


near = st.from_regex(
    r"[+-]?[0-9]{0,4}[.,_ ]?[0-9]{0,4}([eE][+-]?[0-9]{1,3})?[ _,]?[fpnuµmkMGK°]?(V|A|Ohm|Ω|S|s|m|%|C|T|Hz)?"
)
words = st.one_of(
    st.text(), near, st.floats().map(repr), st.sampled_from(["0x1F", "1:30", "1_0", "inf", "٣ V", "1e999"])
)


@given(text=words)
@settings(max_examples=300)
@example(text="0,9 V")
@example(text="5e-400")
@example(text="1e3 mV")
@example(text="5 m%")
def test_any_text_is_its_decimal_value_or_refused(text):
    for name, kind in KINDS.items():
        expected = by_the_grammar(text, kind.symbols, kind.prefixed)
        try:
            read = kind.read(text)
        except ValueError as error:
            assert "write for example" in str(error)
        else:
            assert read == expected and kind.least <= read <= kind.most, name


@given(st.decimals(0, 20, allow_nan=False, places=6), st.sampled_from(["V", "mV", "uV", "µV", "kV"]))
def test_a_voltage_of_the_grammar_within_its_bounds_is_read(value, unit):
    """The other half of the law: what is right is not refused."""
    text = f"{value:f} {unit}"
    expected = by_the_grammar(text, ("V",), True)
    if expected <= 20:
        assert VOLT.read(text) == expected


@given(st.floats(-20, 20))
def test_a_number_is_itself(value):
    assert VOLT.read(value) == value == VOLT.read(repr(value))


@pytest.mark.parametrize(
    "value",
    ["0,9 V", "1,65", ".nan", "nan", "inf", "-inf", "1e999", "1 5 V", "5_0 mV", "0x1F", "1:30", "٣ V", "five", "", " ",
     "5 V ", " 5 V", "5  V", "−5 V", "5 A", "5 kilo", "5 KV", "5 v", "1e3 mV", "5k", "5 %", "2026-01-01", True, False,
     None, [1], {"V": 1}, b"5", math.nan, math.inf, -math.inf, 10**400, 1j],
)  # fmt: skip
def test_what_is_no_voltage(value):
    with pytest.raises(ValueError, match="write for example"):
        VOLT.read(value)


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (OVERTRAVEL, 50, "50 is 50 m, more than 1 mm, which is not plausible here; did you mean 50 um?"),
        (OVERTRAVEL, "0.05", "did you mean 0.05 mm?"),
        (OVERTRAVEL, "-1 um", "less than 0 m"),
        (OVERTRAVEL, "0,05 mm", "write a point for a decimal comma"),
        (PULSE, "900", "more than 20 V, which is not plausible here; did you mean 900 mV?"),
        (PULSE, 0, "not above 0 V"),
        (PULSE, "-0.9 V", "not above 0 V"),
        (SHARE, "150 %", "more than 100 %"),
        (SHARE, 5, "did you mean 5 %?"),
        (SECOND, -1, "less than 0 s"),
        (CELSIUS, "2000 °C", "more than 1000 °C"),
    ],
)
def test_what_is_not_plausible_is_told_with_its_bound_and_the_likely_slip(kind, value, says):
    with pytest.raises(ValueError) as error:
        kind.read(value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (VOLT, "900 mV", 0.9), (VOLT, "-1.5V", -1.5), (VOLT, "+.5 V", 0.5),
        (METRE, "50 µm", 5e-5), (METRE, "50um", 5e-5),
        (OHM, "5 kΩ", 5e3), (OHM, "1e9 Ohm", 1e9), (SECOND, "200 ns", 2e-7), (SHARE, "0.4 %", 0.004),
        (CELSIUS, "125 °C", 125.0), (NUMBER, "-1e-3", -1e-3), (METRE, "1 m", 1.0),
    ],
)  # fmt: skip
def test_what_is_right_is_read(kind, text, value):
    assert kind.read(text) == value


@given(st.sampled_from(["V", "s", "m"]), st.floats(1e-12, 1e3))
def test_a_value_is_shown_as_it_can_be_read_again(unit, value):
    kind = quantities.in_unit(unit)
    assert kind.read(kind.shown(value)) == pytest.approx(value, rel=1e-4)


@given(st.one_of(st.text(), st.integers().map(str)))
def test_a_whole_number_is_digits(text):
    try:
        assert Whole().read(text) == int(Decimal(text)) and re.fullmatch("[+-]?[0-9]+", text)
    except ValueError as error:
        assert "whole number" in str(error)


@pytest.mark.parametrize("value", [True, 3.0, "3.0", "1_0", "1e3", "٣", "0x10", None, -1, 101, "9" * 5000])
def test_what_is_no_count(value):
    with pytest.raises(ValueError, match=r"whole number|out of bounds"):
        Whole(0, 100).read(value)


def numbers_of(hint):
    """The bare float and int in an annotation."""
    if typing.get_origin(hint) is typing.Annotated:
        return []
    return [hint] if hint in (float, int) else [each for part in typing.get_args(hint) for each in numbers_of(part)]


def test_every_number_of_a_driver_has_a_dimension_and_a_bound():
    """A setting that is a plain float would be read by its type alone: in no unit, without a bound."""
    from qcodes.instrument import Instrument

    from instruments.station import _shipped

    plain = []
    for dotted in _shipped(Instrument):
        module, _, name = dotted.rpartition(".")
        driver = getattr(__import__(module, fromlist=[name]), name)
        hints = typing.get_type_hints(driver.__init__, include_extras=True)
        for parameter in inspect.signature(driver.__init__).parameters:
            plain += [f"{dotted}: {parameter}"] * len(numbers_of(hints.get(parameter)))
    assert not plain
