"""What a step returns is kept, whatever kinds of values it is made of; what cannot be is named and stands as text."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.record.record import Record
from analysis.record.values import NOT_KEPT, keepable


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 2


@dataclasses.dataclass
class Fit:
    slope: np.float32
    errors: np.ndarray


class Silent:
    def __repr__(self):
        raise RuntimeError("no text")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """What the record gives back of what a step returned, and what could not be kept."""
    with Record.open(tmp_path_factory.mktemp("lot")) as record:
        run = record.begin_run("p", {})

        def through(returned):
            result, lost = keepable(returned, "step")
            step = record.append_step(run, "p", "d", "f", "source", "key", None, 0.0, result)
            return record.load(step), lost

        yield through


@pytest.mark.parametrize(("value", "plain"), [
    (np.int64(3), 3), (np.bool_(True), True), (np.float32(0.5), 0.5), (np.longdouble(2.5), 2.5), (np.array(4), 4),
    (np.arange(3), [0, 1, 2]), (np.array([True]), [True]), (np.str_("a"), "a"),
    (np.datetime64("2026-01-01"), "2026-01-01"),
    (1 + 2j, {"real": 1.0, "imag": 2.0}), (np.complex64(1j), {"real": 0.0, "imag": 1.0}), (Colour.RED, "RED"),
    (Level.HIGH, 2), (Path("a") / "b", str(Path("a") / "b")), ({3, 1}, [1, 3]), (b"abc", "abc"), (b"\xff", "ff"),
    ({1: 2, (1, 2): np.int8(3)}, {"1": 2, "(1, 2)": 3}), ({"$float": 1}, {"$float_": 1}), (range(2), [0, 1]),
    (Fit(np.float32(0.5), np.zeros(2)), {"slope": 0.5, "errors": [0.0, 0.0]}), (None, None), ("", ""),
    (datetime.datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"), (datetime.timedelta(minutes=1), 60.0),
    (pd.Timestamp("2026-01-01"), "2026-01-01T00:00:00"), (pd.Series([1, 2]), [1, 2]), (xr.DataArray([1.5]), [1.5]),
    ([np.int64(1), [np.float64(2)]], [1, [2.0]]), ((), []), (10**30, 10**30), (float("inf"), float("inf")),
])  # fmt: skip
def test_values_of_attributes_become_the_plain_ones_that_mean_the_same(kept, value, plain):
    found, lost = kept(xr.Dataset(attrs={"it": value}))
    assert found.attrs == {"it": plain} and not lost


@pytest.mark.parametrize("value", [
    object(), Silent(), len, pd.DataFrame({"a": [1]}), {"deep": [object()]}, np.array([object()]), lambda: None,
])  # fmt: skip
def test_what_has_no_such_value_stands_as_its_text_and_is_named(kept, value):
    found, (said,) = kept(xr.Dataset({"g": ("x", [1.0])}, attrs={"it": value, "n": 3}))
    assert "attrs['it']" in said and found.attrs[NOT_KEPT] == [said]
    assert isinstance(found.attrs["it"], str) and found.attrs["n"] == 3 and found["g"].values == [1.0]


def test_a_list_that_holds_itself_and_a_number_of_many_digits_end_nothing(kept):
    circle: list = []
    circle.append(circle)
    deep: dict = {}
    for _ in range(500):
        deep = {"in": deep}
    found, lost = kept(xr.Dataset(attrs={"circle": circle, "large": 10**6000, "deep": deep}))
    assert len(lost) == 2 and int(found.attrs["large"], 16) == 10**6000


def test_keys_that_are_no_text_and_long_arrays(kept):
    found, lost = kept(xr.Dataset(attrs={5: "a", "5": "b", (1, 2): "c", "long": np.arange(10_000)}))
    assert sorted(found.attrs) == ["(1, 2)", "5", "5_2", NOT_KEPT] and len(lost) == 1
    assert np.array_equal(found["long"], np.arange(10_000))


def test_arrays_of_objects_become_arrays_of_what_they_hold(kept):
    data = {
        "text": np.array(["a", "bcd"], object), "holes": np.array([1, None], object),
        "yes": np.array([True, False], object), "mixed": np.array([1, "a"], object),
        "dates": np.array([datetime.datetime(2026, 1, 1)] * 2, object), "things": np.array([Silent, object()], object),
    }  # fmt: skip
    found, lost = kept(xr.Dataset({name: ("x", each) for name, each in data.items()}))
    assert found["text"].dtype.kind == "U" and list(found["text"].values) == ["a", "bcd"]
    np.testing.assert_array_equal(found["holes"], [1.0, np.nan])
    assert found["yes"].dtype == bool and found["dates"].dtype.kind == "M"
    assert list(found["mixed"].values) == ["1", "a"] and {each.split(":")[0] for each in lost} == {"mixed", "things"}


def test_names_and_dimensions_become_texts_each_once(kept):
    with pytest.warns(UserWarning, match="Duplicate dimension"):
        given = xr.Dataset({3: ("x", [1, 2]), "square": (("x", "x"), np.eye(2)), ("a", 1): ((7,), [1.0])})
    found, lost = kept(given)
    assert set(found.data_vars) == {"3", "square", "('a', 1)"} and found["square"].dims == ("x", "x_2") and not lost


def test_levels_of_a_multi_index_become_coordinates(kept):
    pairs = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["word", "number"])
    given = xr.Dataset({"v": ("at", np.arange(4.0))}).assign_coords(xr.Coordinates.from_pandas_multiindex(pairs, "at"))
    found, lost = kept(given)
    assert list(found["word"].values) == ["a", "a", "b", "b"] and list(found["number"].values) == [1, 2, 1, 2]
    assert set(found.coords) == {"word", "number"} and not lost


def test_an_array_that_cannot_be_computed_costs_itself_alone(kept, monkeypatch):
    monkeypatch.setattr("analysis.record.values.LARGEST", 100)
    found, lost = kept(xr.Dataset({"large": ("x", np.zeros(20)), "small": ("y", [1.0])}, attrs={"o": 1}))
    assert list(found.data_vars) == ["small"] and "too large" in lost[0] and found.attrs["o"] == 1


@pytest.mark.parametrize(("returned", "names"), [
    (None, set()), ({"a": np.arange(3), "n": 3, "o": object()}, {"a", "n", "o"}),
    ((np.arange(2), "x"), {"item_0", "item_1"}),
    (5, {"values"}), (np.zeros((2, 2)), {"values"}), ([[1], [1, 2]], {"item_0", "item_1"}), ("text", {"values"}),
    (xr.DataArray(np.arange(3), dims="q", name="g", coords={"q": [1, 2, 3]}), {"g", "q"}),
    ({"a": xr.Dataset({"g": ("x", [1.0, 2.0])}), "b": xr.Dataset({"g": ("x", [1.0])})}, {"a.g", "b.g"}),
    (xr.DataArray([1.0]), {"values"}), (object(), {"values"}), (Silent, {"values"}),
])  # fmt: skip
def test_of_what_is_no_dataset_all_that_can_be_is_kept(kept, returned, names):
    found, _ = kept(returned)
    assert set(found.variables) == names


def test_a_result_that_a_record_holds_is_left_as_it_is():
    attrs = {"n": 1, "nan": float("nan"), "list": [1, {"a": None}], "np": np.float64(1.0)}
    given = xr.Dataset({"g": (("x", "y"), np.eye(2), {"units": "S"})}, coords={"x": ["a", "b"]}, attrs=attrs)
    assert keepable(given, "step")[0] is given


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
    | st.complex_numbers() | st.dates() | st.builds(object) | st.builds(np.float32, st.floats(width=32)),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.sets(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2) | st.integers() | st.none(), inner, max_size=3)
    | st.lists(inner, max_size=3).map(lambda each: np.array([*each, None], object)[:-1]),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(anything, anything)
def test_nothing_that_is_returned_ends_a_step(kept, attribute, array):
    found, _ = kept(xr.Dataset({"g": ("x", [1.0])}, attrs={"it": attribute}))
    assert found["g"].values == [1.0] and "it" in found.attrs
    kept({"g": array})
