import math
from collections import Counter

import numpy as np
import pytest
import yaml

from sim_backends.array.dies.lot import BUILT_IN, KINDS, LotError, load_lot, lot_from_tree
from sim_backends.array.dies.mtj_die import Die, draw_dead_lines, draw_defects, stream
from sim_backends.array.dies.topology import Topology


def test_built_in_lot_has_a_source_for_every_value(lot):
    assert (lot.devices.r_p, lot.devices.tmr, lot.devices.v_half) == (5000.0, 1.2, 0.5)
    assert (lot.devices.r_selector, lot.devices.r_short, lot.devices.r_open) == (2000.0, 100.0, 1e9)
    assert (lot.defects.rate_median, lot.defects.rate_log_sigma, lot.defects.rate_max) == (0.004, 0.8, 0.06)
    numbers = leaves(lot.model_dump(exclude={"sources", "name", "description"}, exclude_none=True))
    assert {path for path in numbers if path not in lot.sources} == set()


def leaves(tree, path=""):
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, branch in tree.items() for leaf in leaves(branch, f"{path}.{key}" if path else key)]


def test_unknown_and_wrong_entries_are_named(tmp_path):
    tree = yaml.safe_load((BUILT_IN / "mtj.yaml").read_text(encoding="utf-8"))
    tree["devices"]["r_pp"] = "5 kOhm"
    tree["devices"]["r_p"] = "5 kV"
    path = tmp_path / "lot.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(LotError, match=r"devices\.r_pp: unknown key") as error:
        load_lot(path)
    assert "devices.r_p:" in str(error.value)
    assert "expected 'Ohm'" in str(error.value)
    with pytest.raises(LotError, match="no lot 'nothing'"):
        load_lot("nothing")


def test_kernels_are_numbered_block_half_quarter(lot):
    topology = lot.topology
    assert topology.shape == (32, 25, 25)
    for block in range(4):
        for half in range(2):
            for quarter in range(4):
                kernel = 8 * block + 4 * half + quarter
                place = topology.kernel_block[kernel], topology.kernel_column[kernel], topology.kernel_row[kernel]
                assert place == (block, 25 * half, 25 * quarter)


def test_lines_span_what_they_share(lot):
    row = lot.topology.row_mask(2, 30)
    assert sorted({int(kernel) for kernel in np.argwhere(row)[:, 0]}) == [17, 21], "both column halves"
    assert set(np.argwhere(row)[:, 1]) == {5}
    assert row.sum() == 50
    column = lot.topology.column_mask(1, 40)
    assert sorted({int(kernel) for kernel in np.argwhere(column)[:, 0]}) == [12, 13, 14, 15], "four row quarters"
    assert column.sum() == 100
    assert lot.topology.row_mask(None, 30).sum() == 200, "a shared row is dead in all blocks"


def test_another_geometry_is_only_data(lot, vary):
    small = vary(lot, geometry={"blocks": 2, "block_rows": 8, "block_columns": 6, "rows": 4, "columns": 3})
    die = Die.from_lot(small, 0, 0)
    assert die.devices.shape == (8, 4, 3)
    assert die.read(7, 0.1).shape == (4, 3)
    assert small.topology == Topology(2, 8, 6, 4, 3)
    with pytest.raises(LotError, match="do not tile"):
        vary(lot, geometry={"rows": 24})


def test_same_key_same_die_for_ever(lot):
    first, again, other = Die.from_lot(lot, 7, 12), Die.from_lot(lot, 7, 12), Die.from_lot(lot, 7, 13)
    np.testing.assert_array_equal(first.devices.r_p, again.devices.r_p)
    np.testing.assert_array_equal(first.kind, again.kind)
    np.testing.assert_array_equal(first.devices.antiparallel, again.devices.antiparallel)
    assert (first.devices.r_p != other.devices.r_p).mean() > 0.99
    # recorded once: a change of these numbers would change every die that anybody has published
    assert first.devices.r_p[0, 0, 0] == pytest.approx(FIRST_R_P, rel=1e-12)
    assert int(first.kind.astype(bool).sum()) == FIRST_BAD


FIRST_R_P, FIRST_BAD = 5201.458068647477, 180


def test_rates_and_shares_of_many_dies(lot):
    dies = 1500
    counts, bad_shares = np.zeros(len(KINDS)), []
    for index in range(dies):
        kinds = np.bincount(draw_defects(lot, stream(3, index)).ravel(), minlength=len(KINDS))
        counts += kinds
        bad_shares.append(kinds[1:].sum() / 20000)
    shares = counts[1:] / counts[1:].sum()
    np.testing.assert_allclose(shares, [0.5, 0.15, 0.1, 0.1, 0.15], atol=0.01)
    logs = np.log(np.maximum(bad_shares, 1e-6))
    assert np.median(bad_shares) == pytest.approx(0.004, rel=0.1)
    # counting 20,000 cells adds its own spread to the log-normal one
    assert np.std(logs) == pytest.approx(0.8, rel=0.08)
    assert max(bad_shares) < 0.06 + 5 * math.sqrt(0.06 / 20000)


def test_line_faults_of_many_dies(lot):
    dies = 3000
    counts = Counter()
    for index in range(dies):
        counts.update(line.kind for line in draw_dead_lines(lot, stream(4, index)))
    for kind, mean in {"row": 0.10, "column": 0.10, "gate": 0.05, "row_shared": 0.05}.items():
        assert counts[kind] == pytest.approx(dies * mean, abs=5 * math.sqrt(dies * mean))


def test_device_spread(lot):
    good = [(die.devices, die.kind == 0) for die in (Die.from_lot(lot, 5, index) for index in range(3))]
    logs = np.log(np.concatenate([devices.r_p[ok] for devices, ok in good]) / 5000)
    assert abs(logs.mean()) < 0.001
    assert logs.std() == pytest.approx(0.05, rel=0.02)
    logs = np.log(np.concatenate([devices.tmr[ok] for devices, ok in good]) / 1.2)
    assert logs.std() == pytest.approx(0.05, rel=0.02)


def test_defects_are_what_they_are_called(lot, vary):
    die = Die.from_lot(vary(lot, defects={"rate_median": 0.05}), 5, 1)
    kind = die.kind

    def of(name):
        return (kind == KINDS.index(name)) & die.alive

    for value in (True, False):
        g = die.conductance(0.1, antiparallel=value)
        np.testing.assert_allclose(g[of("short")], 1 / 2100, rtol=1e-9)
        assert np.all(g[of("open")] < 2e-9)
    weak = die.devices.tmr[of("weak_tmr")]
    assert np.all((weak > 0.08) & (weak < 0.6))
    full = np.ones((25, 25), dtype=bool)
    for amplitude in (1.3, -1.3, 1.3):
        for kernel in range(32):
            die.pulse(kernel, full, amplitude, 1e-6, 3, die.noise(kernel))
        assert not die.devices.antiparallel[of("stuck_p")].any()
        assert die.devices.antiparallel[of("stuck_ap")].all()
        assert np.all(die.devices.antiparallel[of("good") & ~die.devices.broken] == (amplitude > 0))
        assert np.all(die.devices.antiparallel[of("weak_tmr") & ~die.devices.broken] == (amplitude > 0))


def test_dead_lines_carry_no_current_and_do_not_switch(lot, vary):
    die = Die.from_lot(vary(lot, defects={"dead_rows": 3, "dead_columns": 3, "dead_gates": 2}), 5, 2)
    assert die.dead_lines
    before = die.devices.antiparallel.copy()
    for kernel in range(32):
        die.pulse(kernel, np.ones((25, 25), dtype=bool), 1.3, 1e-6, 1, die.noise(kernel))
        current = die.read(kernel, 0.1)
        assert not current[~die.alive[kernel]].any()
        assert np.all(current[die.alive[kernel]] > 0)
    np.testing.assert_array_equal(die.devices.antiparallel[~die.alive], before[~die.alive])


def test_sites_are_those_nearest_to_the_centre(lot, vary):
    sites = lot.wafer.sites()
    assert len(set(sites)) == 36
    assert min(column for column, _ in sites) == min(row for _, row in sites) == 0
    centre = sites[0]
    distances = [math.hypot(column - centre[0], row - centre[1]) for column, row in sites]
    assert distances == sorted(distances)
    assert max(distances) == pytest.approx(math.sqrt(10))
    assert len(vary(lot, wafer={"dies": 5}).wafer.sites()) == 5


def test_a_lot_of_numbers_is_assumed():
    tree = load_lot("mtj").model_dump(exclude={"sources"})
    assert lot_from_tree(tree, "test").sources == {}
