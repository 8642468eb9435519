from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapping.dies.die_record import CellClass, DieRecord
from mapping.dies.geometry import MTJ_20K, ArrayGeometry
from mapping.placement.placement import DoesNotFitError, Placement, most_copies, place

GEOMETRIES = st.builds(
    lambda rows, columns, blocks, down, over: ArrayGeometry.tiled(rows, columns, blocks, rows * down, columns * over),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
)


@st.composite
def networks(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[int]]:
    width = draw(st.lists(st.integers(1, 14), min_size=2, max_size=4))
    shapes = list(pairwise(width))
    return shapes, [draw(st.integers(1, 3)) for _ in shapes]


def healthy(geometry: ArrayGeometry) -> DieRecord:
    p, ap = np.full(geometry.shape, 143e-6), np.full(geometry.shape, 77e-6)
    return DieRecord("die", geometry, p, ap, np.zeros(geometry.shape, np.uint8))


def multiplied(placement: Placement, number: int, g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pair differences ``[copies, groups, n_out]`` by way of the reads, as a board would give them."""
    layer = placement.layers[number]
    lines = np.full((layer.copies, layer.groups, 2 * layer.n_out), np.nan)
    for read in layer.reads:
        vector = np.zeros(placement.geometry.rows)
        vector[read.row_mask] = x[layer.inputs_of(read.group)]
        lines[read.copies, read.group, read.lines] = (vector @ g[read.kernel])[read.column_mask]
    return lines[..., 0::2] - lines[..., 1::2]


def differences(placement: Placement, number: int, g: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The same straight from the cells."""
    layer = placement.layers[number]
    pair = g.ravel()[layer.cells]
    product = (pair[..., 0] - pair[..., 1]) * x[:, None]
    return np.stack([product[:, layer.input_group == k].sum(axis=1) for k in range(layer.groups)], axis=1)


@given(networks(), GEOMETRIES, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_every_weight_has_two_cells_of_its_own_and_reads_give_its_product(network, geometry, random):
    shapes, copies = network
    try:
        placement = place(shapes, geometry, copies)
    except DoesNotFitError:
        return
    placement.check()
    cells = np.concatenate([layer.cells.ravel() for layer in placement.layers])
    assert np.unique(cells).size == cells.size == 2 * sum(a * b * n for (a, b), n in zip(shapes, copies, strict=True))
    assert cells.min() >= 0 and cells.max() < geometry.cells
    assert placement.shapes == tuple(shapes) and placement.copies == tuple(copies)
    assert np.count_nonzero(placement.used) == cells.size
    rng = np.random.default_rng(random.randrange(2**32))
    g = rng.uniform(1, 2, geometry.shape)
    for number, layer in enumerate(placement.layers):
        assert np.bincount(layer.input_group).max() <= geometry.rows
        assert np.ptp(np.bincount(layer.input_group)) <= 1
        x = rng.uniform(-1, 1, layer.n_in)
        np.testing.assert_allclose(
            multiplied(placement, number, g, x), differences(placement, number, g, x), atol=1e-12
        )
        assert all(read.row_mask.sum() == np.sum(layer.input_group == read.group) for read in layer.reads)
        assert sum(tile.lines.size for tile in layer.tiles) == layer.copies * layer.groups * 2 * layer.n_out


@given(networks(), GEOMETRIES)
@settings(max_examples=100, deadline=None)
def test_what_is_refused_would_not_fit(network, geometry):
    """Refused only if stacking whole lines in columns, as well as it can be bounded, leaves too little room."""
    shapes, copies = network
    groups = [-(-n_in // geometry.rows) for n_in, _ in shapes]
    columns = geometry.kernels * geometry.columns
    lines = sum(2 * n_out * k * g for (_, n_out), k, g in zip(shapes, copies, groups, strict=True))
    try:
        place(shapes, geometry, copies)
    except DoesNotFitError:
        assert lines > columns
    else:
        assert sum(2 * a * b * k for (a, b), k in zip(shapes, copies, strict=True)) <= geometry.cells


def test_lines_as_high_as_a_kernel_fill_every_column():
    placement = place([(50, 200)], MTJ_20K)
    assert placement.used.all()


def test_196_40_10_fits_with_four_copies_of_the_output_layer():
    placement = place([(196, 40), (40, 10)], MTJ_20K, (1, 4))
    placement.check()
    assert [layer.groups for layer in placement.layers] == [8, 2]
    assert sorted(np.bincount(placement.layers[0].input_group)) == [24] * 4 + [25] * 4
    assert sum(len(layer.reads) for layer in placement.layers) <= 40
    assert most_copies([(196, 40), (40, 10)], MTJ_20K) == (1, 4)


def test_150_50_10_fits_with_five_copies_of_the_output_layer():
    placement = place([(150, 50), (50, 10)], MTJ_20K, (1, 5))
    placement.check()
    assert placement.used.all()
    assert [len(layer.reads) for layer in placement.layers] == [24, 8]
    assert most_copies([(150, 50), (50, 10)], MTJ_20K) == (1, 5)


def test_rows_below_a_layer_are_used_by_another():
    geometry = ArrayGeometry.tiled(10, 4, 1, 10, 4)
    placement = place([(6, 2), (4, 2)], geometry)
    placement.check()
    assert placement.used.all()


def test_too_many_copies_are_refused_with_advice():
    with pytest.raises(DoesNotFitError, match=r"needs 19680 cells in 840 lines .* 800 columns .* fewer copies"):
        place([(196, 40), (40, 10)], MTJ_20K, (1, 5))


def test_too_large_a_network_is_refused_with_advice():
    with pytest.raises(DoesNotFitError, match=r"784-40-10 .* needs 63520 cells .* 20000 .*fewer hidden units"):
        place([(784, 40), (40, 10)], MTJ_20K)


@pytest.mark.parametrize("copies", [(1,), (1, 0), (1, 1, 1)])
def test_wrong_copies_are_refused(copies):
    with pytest.raises(ValueError, match="copies"):
        place([(4, 3), (3, 2)], MTJ_20K, copies)


def test_groups_of_the_caller_are_kept():
    group = np.repeat(np.arange(5), 10)
    layer = place([(50, 3)], MTJ_20K, input_groups=[group]).layers[0]
    np.testing.assert_array_equal(layer.input_group, group)
    np.testing.assert_array_equal(layer.inputs_of(2), np.arange(20, 30))
    with pytest.raises(ValueError, match="needs 1 to 25"):
        place([(50, 3)], MTJ_20K, input_groups=[np.zeros(50, int)])


def damaged(geometry: ArrayGeometry, mask: np.ndarray) -> DieRecord:
    record = healthy(geometry)
    record.g_p[mask] = record.g_ap[mask] = np.inf
    record.cell_class[mask] = CellClass.SHORT
    return record


def test_dead_rows_and_columns_are_avoided_where_there_is_room():
    mask = np.zeros(MTJ_20K.shape, bool)
    mask[::3, 7] = True
    mask[5, :, 11] = True
    mask[9, 3, 4] = True
    record = damaged(MTJ_20K, mask)
    shapes = [(24 * 6, 50), (48, 10)]
    assert (place(shapes, MTJ_20K).used & mask).any()
    placement = place(shapes, MTJ_20K, avoid=record)
    placement.check()
    assert not (placement.used & mask).any()


def test_groups_with_fewer_inputs_go_where_a_row_is_dead():
    geometry = ArrayGeometry.tiled(5, 4, 2, 5, 4)
    mask = np.zeros(geometry.shape, bool)
    mask[0, 2] = True
    placement = place([(9, 2)], geometry, avoid=damaged(geometry, mask))
    assert placement.used.sum() == 36 and not (placement.used & mask).any()


@given(networks(), GEOMETRIES, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_avoiding_never_breaks_a_placement(network, geometry, seed):
    shapes, copies = network
    rng = np.random.default_rng(seed)
    mask = rng.random(geometry.shape) < 0.1
    try:
        plain = place(shapes, geometry, copies)
    except DoesNotFitError:
        return
    placement = place(shapes, geometry, copies, avoid=damaged(geometry, mask))
    placement.check()
    assert np.count_nonzero(placement.used) == np.count_nonzero(plain.used)


def test_random_damage_is_avoided_better_than_by_chance():
    rng = np.random.default_rng(1)
    mask = rng.random(MTJ_20K.shape) < 0.01
    record = damaged(MTJ_20K, mask)
    shapes = [(100, 40), (40, 10)]
    hit = [np.count_nonzero(place(shapes, MTJ_20K, avoid=a).used & mask) for a in (None, record)]
    assert hit[1] == 0 < hit[0]


def test_a_record_of_another_geometry_is_refused():
    other = ArrayGeometry.tiled(5, 5, 1, 5, 5)
    with pytest.raises(ValueError, match="another geometry"):
        place([(4, 2)], MTJ_20K, avoid=healthy(other))


def test_reads_follow_columns_in_any_order():
    layer = place([(30, 4)], MTJ_20K).layers[0]
    swapped = type(layer)(MTJ_20K, layer.input_group, layer.input_row, layer.cells[:, :, [2, 0, 3, 1], ::-1].copy())
    placement = Placement(MTJ_20K, (swapped,))
    placement.check()
    rng = np.random.default_rng(0)
    g, x = rng.random(MTJ_20K.shape), rng.random(30)
    np.testing.assert_allclose(multiplied(placement, 0, g, x), differences(placement, 0, g, x))


def test_check_finds_cells_used_twice_and_broken_lines():
    placement = place([(6, 2)], MTJ_20K)
    layer = placement.layers[0]
    twice = layer.cells.copy()
    twice[:, :, 1, 1] = twice[:, :, 0, 0]
    broken = layer.cells.copy()
    broken[0, 0, 0, 0] += 1
    for cells, message in ((twice, "two weights"), (broken, "not one column"), (layer.cells - 30000, "outside")):
        with pytest.raises(ValueError, match=message):
            Placement(MTJ_20K, (type(layer)(MTJ_20K, layer.input_group, layer.input_row, cells),)).check()


@given(rows=st.integers(1, 30), n_in=st.integers(1, 60), n_out=st.integers(1, 12))
def test_driving_few_rows_at_a_time_changes_groups_and_no_cell(rows, n_in, n_out):
    whole = place([(n_in, n_out)], MTJ_20K)
    cut = place([(n_in, n_out)], MTJ_20K, rows_per_multiply=[rows])
    cut.check()
    layer, before = cut.layers[0], whole.layers[0]
    assert (layer.cells == before.cells).all()
    assert max(read.row_mask.sum() for read in layer.reads) <= rows
    inputs = np.concatenate([layer.inputs_of(group) for group in range(layer.groups)])
    assert sorted(inputs) == list(range(n_in))
    for group in range(layer.groups):
        assert np.unique(before.input_group[layer.inputs_of(group)]).size == 1
