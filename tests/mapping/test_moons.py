"""Half moons: pinned, balanced, scaled, and read from files that are checked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapping.training.moons import FILES, SIZES, MoonsError, half_moons, read_moons


@given(seed=st.integers(0, 1000), noise=st.floats(0, 0.5))
def test_moons_fill_the_square_and_are_balanced(seed, noise):
    moons = half_moons(seed, noise, (60, 20, 20))
    x = np.concatenate([part.x for part in (moons.train, moons.validation, moons.test)])
    label = np.concatenate([part.label for part in (moons.train, moons.validation, moons.test)])
    assert x.min(axis=0).tolist() == [0, 0] and x.max(axis=0).tolist() == [1, 1]
    assert label.sum() == 50


def test_the_seed_is_pinned():
    moons, again = half_moons(), half_moons(0)
    assert tuple(len(part) for part in (moons.train, moons.validation, moons.test)) == SIZES
    np.testing.assert_array_equal(moons.train.x, again.train.x)
    assert not np.array_equal(moons.train.x, half_moons(1).train.x)


def test_without_noise_points_lie_on_two_half_circles():
    points = half_moons(3, 0.0, (400, 1, 1)).train
    x = points.x * np.array([3.0, 1.5]) + np.array([-1.0, -0.5])  # ends of the half circles that were sampled
    radius = np.hypot(*(x - np.where(points.label[:, None] == 0, [0.0, 0.0], [1.0, 0.5])).T)
    assert np.abs(radius - 1).max() < 0.02


def write(folder, name, rows):
    (folder / name).write_text("x0,x1,label\n" + "\n".join(rows) + "\n", encoding="utf-8")


def test_points_are_read(tmp_path):
    for name in FILES:
        write(tmp_path, name, ["0.5,0.25,1", "0.1,0.9,0"])
    moons = read_moons(tmp_path)
    np.testing.assert_array_equal(moons.test.x, [[0.5, 0.25], [0.1, 0.9]])
    assert moons.test.label.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("rows", "words"),
    [(["0.5,0.25,2"], "line 2.*0 or 1"), (["0.5,0.2,1", "nan,0.2,1"], "line 3"), (["0.5,0.25"], "2 columns"),
     (["a,b,c"], "not a table"), (["0.5,0.2,1", "0.5,1.5,0"], "line 3.*from 0 to 1")],
)  # fmt: skip
def test_a_wrong_file_says_where(tmp_path, rows, words):
    for name in FILES:
        write(tmp_path, name, rows)
    with pytest.raises(MoonsError, match=words):
        read_moons(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MoonsError, match=r"moons_train\.csv"):
        read_moons(tmp_path)


def test_impossible_points_are_refused():
    with pytest.raises(ValueError, match="noise"):
        half_moons(noise=-0.1)
