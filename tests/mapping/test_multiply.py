"""What a multiply takes: the same inputs in all its forms, and nothing outside of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.dies.die_record import DieRecord
from mapping.dies.geometry import NAMED
from mapping.placement.coding import encode
from mapping.placement.placement import place
from mapping.training.binary import die_pairs
from mapping.training.emulation import LineResistance, emulate_multiply
from mapping.training.multiply import MultiplyError, checked_inputs
from mapping.training.network import BinaryNetwork, Layer, ideal_multiply
from protocols.steps.inference import ArrayMultiplier
from protocols.steps.inference_moons import input_voltages
from protocols.studies.lot_methods import record_multiply

GEOMETRY = NAMED["mtj-20k"]
PLACED = place([(10, 4), (4, 3)], GEOMETRY)
WEIGHTS = [np.ones((4, 10), np.int8), np.ones((3, 4), np.int8)]
RECORD = DieRecord(
    "die", GEOMETRY, np.full(GEOMETRY.shape, 140e-6), np.full(GEOMETRY.shape, 78e-6),
    np.zeros(GEOMETRY.shape, np.uint8), (), {"v_read": 0.1},
)  # fmt: skip


class NoBench:
    """Nothing may be asked of the station before inputs are checked."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"the bench was asked for {name}")


def forms():
    layers = tuple(Layer(w, np.ones(len(w)), np.zeros(len(w))) for w in WEIGHTS)
    network = BinaryNetwork(np.arange(10), np.zeros(10), layers, (1, 1), (None, None), False)
    states = encode(WEIGHTS, PLACED).states
    return {
        "ideal": ideal_multiply(WEIGHTS, PLACED),
        "emulated": emulate_multiply(RECORD, states, PLACED, lines=LineResistance(1e-6, 1e-6, 0.0)),
        "from a record": record_multiply(network, PLACED, die_pairs([RECORD], PLACED)),
        "instrument": ArrayMultiplier(NoBench(), PLACED, RECORD),
    }


FORMS = forms()
X = np.linspace(-1, 1, 10)[None]
WRONG = {
    "bytes of images": 255.0 * X,
    "a little too much": np.where(X == 1, 1.001, X),
    "NaN": np.where(X == 1, np.nan, X),
    "infinite": np.where(X == 1, -np.inf, X),
    "a column for the bias": np.ones((1, 11)),
    "one too few": X[:, 1:],
    "one vector alone": X[0],
    "complex": X + 0j,
    "text": X.astype(str),
    "objects": X.astype(object),
    "masked": np.ma.masked_greater(X, 0),
    "images": np.ones((1, 10, 1)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("what", WRONG)
def test_what_is_outside_of_the_domain_is_refused_in_every_form(form, what):
    with pytest.raises(MultiplyError, match="layer 0"):
        FORMS[form](0, WRONG[what])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", [2, -1, True, "0", 0.0, None])
def test_a_layer_that_is_not_placed_is_refused(form, layer):
    with pytest.raises(MultiplyError, match="no layer"):
        FORMS[form](layer, X)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "instrument"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float32, np.bool_, ">f8"])
def test_small_types_are_worked_with_in_full(form, dtype):
    ones = np.ones((1, 10))
    np.testing.assert_allclose(FORMS[form](0, ones.astype(dtype)), FORMS[form](0, ones))
    assert FORMS[form](0, ones)[0, 0].sum(axis=0) == pytest.approx([10] * 4, rel=1e-2)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=10, max_size=10))
def test_inputs_come_through_unchanged_or_not_at_all(x):
    given = np.array([x])
    inside = np.all(np.abs(given) <= 1)
    try:
        np.testing.assert_allclose(checked_inputs(PLACED, 0, given), given, atol=1e-9)
    except MultiplyError:
        assert not inside


@pytest.mark.parametrize("weights", [WEIGHTS[:1], WEIGHTS[::-1], [w.T for w in WEIGHTS], [*WEIGHTS, WEIGHTS[0]]])
def test_weights_of_other_layers_are_refused(weights):
    with pytest.raises(MultiplyError, match="shapes"):
        ideal_multiply(weights, PLACED)


@pytest.mark.parametrize("point", [[1.5, 0.5], [-0.1, 0.5], [np.nan, 0.5], [0.5, 0.5, 1.0]])
def test_points_outside_of_the_plane_drive_nothing(point):
    with pytest.raises(MultiplyError, match="points"):
        input_voltages(np.array([point]), np.ones(3), 0.2)
