"""Dies that were measured: read again, they show what was read; and no file is trusted."""

import json
import math

import numpy as np
import pytest
import yaml

from sim_backends.array.dies.lot import BUILT_IN, KINDS, LotError, load_lot
from sim_backends.array.dies.measured import FORMAT, LINE_KINDS
from sim_backends.array.dies.mtj_die import Die
from sim_backends.array.dies.readout import ReadoutSpec

V_READ = 0.1
SITES = [(3, 6), (2, 5)]
SMALL = {"blocks": 2, "block_rows": 16, "block_columns": 10, "rows": 8, "columns": 5}


def read_all(die, antiparallel):
    """Conductance of every cell as a noiseless board reads it, with all that switch in one state (S)."""
    die.put(antiparallel)
    return np.stack([die.read(kernel, V_READ) for kernel in range(die.lot.topology.kernels)]) / V_READ


@pytest.fixture(scope="module")
def drawn_lot(lot, tmp_path_factory):
    """Small dies with many defects, some dead lines and lines ten times as resistive."""
    tree = lot.model_dump(exclude_none=True)
    tree["geometry"] = SMALL
    tree["defects"] |= {"rate_median": 0.15, "rate_max": 0.3, "dead_rows": 1.0, "dead_columns": 1.0}
    tree["lines"] = {"r_row": 5.0, "r_column": 5.0, "r_contact": 10.0}
    path = tmp_path_factory.mktemp("drawn") / "lot.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(tree))), encoding="utf-8")
    return load_lot(path)


@pytest.fixture(scope="module")
def drawn(drawn_lot):
    return [Die.from_lot(drawn_lot, 5, index) for index in range(2)]


@pytest.fixture(scope="module")
def content(drawn):
    """The file of those dies, measured without noise."""
    lines = [(die.index, LINE_KINDS.index(li.kind), -1 if li.block is None else li.block, li.index)
             for die in drawn for li in die.dead_lines]  # fmt: skip
    die, kind, block, index = np.array(lines, np.int64).reshape(-1, 4).T
    states = [die.devices.antiparallel.copy() for die in drawn]
    cells = {
        "g_p": np.stack([read_all(die, False) for die in drawn]),
        "g_ap": np.stack([read_all(die, True) for die in drawn]),
        "v_critical_to_ap": np.stack([die.devices.v_critical_to_ap for die in drawn]),
        "v_critical_to_p": np.stack([die.devices.v_critical_to_p for die in drawn]),
    }
    return {
        "format": np.array(FORMAT),
        "v_read": np.array(V_READ),
        "site": np.array(SITES, np.int64),
        "kind": np.stack([die.kind for die in drawn]),
        "state": np.stack(states),
        "line_die": die,
        "line_kind": kind,
        "line_block": block,
        "line_index": index,
        **{name: values.astype(np.float32) for name, values in cells.items()},
    }


@pytest.fixture
def write(drawn_lot, tmp_path):
    """Writes a lot file with its measured dies; gives the path of the lot file."""

    def written(content, **changes):
        tree = json.loads(json.dumps(drawn_lot.model_dump(mode="json", exclude_none=True)))
        tree["wafer"] |= {"dies": 2, "listed": [list(site) for site in SITES]}
        tree["devices"] |= {"r_p": 1e4, "v_half": drawn_lot.devices.v_half}  # drawn values must not show
        tree |= {"measured": "lot.npz", **changes}
        (tmp_path / "lot.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        np.savez_compressed(tmp_path / "lot.npz", **content)
        return tmp_path / "lot.yaml"

    return written


def test_a_measured_die_reads_as_it_was_read(drawn, content, write):
    lot = load_lot(write(content))
    assert lot.wafer.sites() == SITES
    for index, original in enumerate(drawn):
        twin = Die.from_lot(lot, 99, index)
        conducting = original.alive & (original.kind != KINDS.index("open"))
        for state in (False, True):
            expected, found = content["g_ap" if state else "g_p"][index], read_all(twin, state)
            np.testing.assert_allclose(found[conducting], expected[conducting], rtol=2e-5)
            np.testing.assert_allclose(found, expected, atol=2e-9)
        np.testing.assert_array_equal(twin.kind, original.kind)
        np.testing.assert_array_equal(twin.alive, original.alive)
        np.testing.assert_array_equal(twin.switchable, original.switchable)


def test_the_junctions_behind_it_are_those_that_were_measured(drawn, content, write):
    """Not only the reads: resistance, TMR and critical voltages are what they were, so it switches alike."""
    twin, original = Die.from_lot(load_lot(write(content)), 99, 0), drawn[0]
    good = original.switchable
    np.testing.assert_allclose(twin.devices.r_p[good], original.devices.r_p[good], rtol=1e-5)
    np.testing.assert_allclose(twin.devices.tmr[good], original.devices.tmr[good], rtol=1e-4)
    np.testing.assert_allclose(twin.devices.v_critical_to_p, original.devices.v_critical_to_p, rtol=1e-6)
    mixed = np.random.default_rng(1).random(good.shape) < 0.5
    for die in (twin, original):
        die.devices.antiparallel = np.where(good, mixed, die.devices.antiparallel)
    here, there = (np.stack([die.read(kernel, 0.25) for kernel in range(8)]) for die in (twin, original))
    np.testing.assert_allclose(here[good], there[good], rtol=1e-4)


def test_it_holds_what_it_held_and_is_the_same_die_for_ever(drawn, content, write):
    path = write(content)
    twin, again = (Die.from_lot(load_lot(path), 7, 1) for _ in range(2))
    stuck = np.isin(twin.kind, [KINDS.index("stuck_p"), KINDS.index("stuck_ap")])
    np.testing.assert_array_equal(twin.devices.antiparallel[~stuck], content["state"][1][~stuck])
    np.testing.assert_array_equal(twin.devices.v_breakdown, again.devices.v_breakdown)
    assert twin.noise(3).random() == again.noise(3).random()
    assert Die.from_lot(load_lot(path), 8, 1).noise(3).random() != Die.from_lot(load_lot(path), 7, 1).noise(3).random()


def test_a_short_that_broke_down_between_the_reads_is_a_short(drawn, content, write):
    changed = {name: values.copy() for name, values in content.items()}
    cell = (0, *np.argwhere(drawn[0].alive & (drawn[0].kind == 0))[0])
    changed["kind"][cell] = KINDS.index("short")
    changed["g_ap"][cell] = 1 / 2200
    twin = Die.from_lot(load_lot(write(changed)), 0, 0)
    for state in (False, True):
        assert twin.conductance(V_READ, antiparallel=state)[cell[1:]] == pytest.approx(1 / 2100, rel=0.1)


def test_cells_that_read_nothing_or_more_than_the_circuit_allows_are_still_cells(content, write):
    changed = {name: values.copy() for name, values in content.items()}
    changed["g_p"][:], changed["g_ap"][:] = 1e-3, -1e-7
    die = Die.from_lot(load_lot(write(changed)), 0, 0)
    assert np.isfinite(die.devices.r_p).all() and (die.devices.r_p > 0).all()
    assert np.isfinite(read_all(die, True)).all()


def test_measured_noise_takes_the_place_of_the_boards(content, write):
    own = ReadoutSpec()
    assert load_lot("mtj").read_by(own) == own
    lot = load_lot(write(content, read_noise={"cell": "1 %", "current": "80 nA"}))
    noisy = lot.read_by(own)
    assert (noisy.cell_noise, noisy.current_noise) == (0.01, pytest.approx(80e-9))
    assert noisy.model_copy(update={"cell_noise": own.cell_noise, "current_noise": own.current_noise}) == own


def broken(content, name):
    """One thing wrong with the file."""
    nan = content["g_p"].copy()
    nan[0, 0, 0, 0] = math.nan
    return {
        "shape": content | {"g_p": content["g_p"][:, :, :-1]},
        "dtype": content | {"kind": content["kind"].astype(np.int64)},
        "nan": content | {"g_p": nan},
        "range": content | {"v_critical_to_p": content["v_critical_to_p"] * 0},
        "kind": content | {"kind": content["kind"] + np.uint8(6)},
        "missing": {key: value for key, value in content.items() if key != "state"},
        "sites": content | {"site": content["site"][::-1]},
        "format": content | {"format": np.array("something else")},
        "v_read": content | {"v_read": np.array(0.0)},
        "pickle": content | {"g_p": np.array([{}], dtype=object)},
        "line": content | {"line_index": content["line_index"] + 1000},
        "block": content | {"line_block": np.full_like(content["line_block"], -1)},
        "too large": content | {"more": np.zeros(50_000_000, np.uint8)},
    }[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shape", "g_p is float32"),
        ("dtype", "kind is int64"),
        ("nan", "g_p has values outside"),
        ("range", "v_critical_to_p has values outside"),
        ("kind", "kind has values outside"),
        ("missing", "state"),
        ("sites", "sites are not those"),
        ("format", "format is 'something else'"),
        ("v_read", "v_read has values outside"),
        ("pickle", "allow_pickle"),
        ("line", "line_index has values outside"),
        ("block", "has block None|has block -1"),
        ("too large", "too many for"),
    ],
)
def test_a_file_that_is_not_sound_is_refused_by_name(content, write, name, said):
    with pytest.raises(LotError, match=said):
        load_lot(write(broken(content, name)))


@pytest.mark.parametrize("name", ["../lot.npz", "/etc/hosts", "elsewhere.npz"])
def test_the_file_lies_beside_the_lot_file(content, write, name):
    with pytest.raises(LotError, match=r"measured:"):
        load_lot(write(content, measured=name))


def test_no_file_of_dies_at_all(content, write):
    path = write(content)
    path.with_suffix(".npz").write_bytes(b"PK\x03\x04 no zip at all")
    with pytest.raises(LotError, match="no file of the measured dies"):
        load_lot(path)


def test_listed_sites_are_as_many_as_dies(content, write):
    tree = yaml.safe_load((BUILT_IN / "mtj.yaml").read_text(encoding="utf-8"))
    wafer = {**{k: v["value"] for k, v in tree["wafer"].items()}, "dies": 2, "listed": [[0, 0], [0, 0]]}
    with pytest.raises(LotError, match="1 different sites for 2 dies"):
        load_lot(write(content, wafer=wafer))
