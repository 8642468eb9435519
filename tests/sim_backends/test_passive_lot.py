"""Lot files of passive dies: what they may say, and what is said of those that are wrong."""

import numpy as np
import pytest
import yaml

from sim_backends.array.devices.tio2 import DEFAULT, V_READ, WINDOW
from sim_backends.array.dies.failures import FailureRates
from sim_backends.array.dies.kinds import load_any_lot
from sim_backends.array.dies.lot import BUILT_IN, LotError, load_lot
from sim_backends.array.dies.readout import ReadoutSpec

NAMES = ("tio2-8x8", "tio2-64x64")


def leaves(tree, path=""):
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, branch in tree.items() for leaf in leaves(branch, f"{path}.{key}" if path else key)]


@pytest.mark.parametrize("name", NAMES)
def test_built_in_lots_have_a_source_for_every_value(name):
    lot = load_any_lot(name)
    numbers = leaves(lot.model_dump(exclude={"sources", "name", "description"}, exclude_none=True))
    assert {path for path in numbers if path not in lot.sources} == set()
    size = int(name.split("x")[-1])
    assert (lot.name, lot.cell, lot.topology.shape) == (name, "1R", (1, size, size))


@pytest.mark.parametrize("name", NAMES)
def test_built_in_lots_hold_the_devices_of_the_model_and_the_rates_of_the_paper(name):
    lot = load_any_lot(name)
    assert lot.devices.parameters() == DEFAULT
    assert lot.devices.initial == WINDOW and lot.v_read == V_READ
    assert lot.defects.rates().stuck == FailureRates().stuck
    assert lot.segments.r_row == (2.0 if name == "tio2-8x8" else 0.2)


def test_rates_of_lines_of_small_dies_are_those_of_the_failure_model():
    assert load_any_lot("tio2-8x8").defects.rates() == FailureRates()


@pytest.fixture
def written(tmp_path):
    """Load the built-in lot with one entry, by its dotted path, set to something else (None: taken out)."""

    def load(path, value):
        tree = yaml.safe_load((BUILT_IN / "tio2-8x8.yaml").read_text(encoding="utf-8"))
        *parents, last = path.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        section[last] = value
        if value is None:
            del section[last]
        file = tmp_path / "lot.yaml"
        file.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return load_any_lot(file)

    return load


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("geometry.rows", 65, r"geometry\.rows: .*64"),
        ("geometry.columns", 0, r"geometry\.columns"),
        ("devices.v_sett", "1 V", r"devices\.v_sett: unknown key"),
        ("devices.v_set", None, r"devices\.v_set: Field required"),
        ("devices.v_set", "1 kOhm", r"devices\.v_set: .*expected 'V'"),
        ("devices.v_set", "0.1 V", r"devices: .*a read of 0\.2 V would write"),
        ("devices.g_min", "1 mS", r"devices: .*g_min"),
        ("devices.initial", ["20 uS", "500 uS"], r"initial: 20 to 500 uS"),
        ("devices.initial", ["500 uS", "100 uS"], r"initial"),
        ("devices.short", "0 S", r"devices\.short"),
        ("defects.stuck_lrs", 2, r"defects\.stuck_lrs: 2 is 200 %"),
        ("defects.row_lrs", "99.9 %", r"defects: .*row_lrs \+ row_hrs \+ row_short"),
        ("defects.lrs_ohm", ["2 kOhm", "1 kOhm"], r"lrs_ohm: 2000 to 1000"),
        ("defects.hrs_min", "1 mS", r"hrs_min of 0\.001 S"),
        ("lines.r_row", "-1 Ohm", r"lines\.r_row"),
        ("kind", "rram", r"kind: 'rram'; known: mtj, tio2"),
        ("wafer.dies", 0, r"wafer\.dies"),
    ],
)
def test_a_wrong_entry_is_named(written, path, value, says):
    with pytest.raises(LotError, match=says):
        written(path, value)


def test_what_needs_junctions_refuses_passive_dies():
    with pytest.raises(LotError, match="dies of kind 'tio2', needed are 'mtj'"):
        load_lot("tio2-8x8")
    assert load_any_lot("mtj") == load_lot("mtj")


def test_a_file_of_junctions_may_say_so(tmp_path):
    file = tmp_path / "lot.yaml"
    file.write_text("kind: mtj\n" + (BUILT_IN / "mtj.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    assert load_any_lot(file).name == load_lot(file).name == "mtj"


def test_a_board_for_passive_dies_reaches_the_caps_unless_it_was_told_otherwise():
    lot = load_any_lot("tio2-64x64")
    usual = lot.read_by(ReadoutSpec())
    assert usual.v_min <= -2.4 and usual.v_max >= 2.1
    assert max(usual.full_scales) >= 64 * WINDOW[1] * V_READ
    assert usual.cell_noise == 0, "it is the devices' own"
    told = lot.read_by(ReadoutSpec(v_max="1.2 V", cell_noise=0.01))
    assert (told.v_min, told.v_max, told.cell_noise) == (usual.v_min, 1.2, 0.01)
    assert np.ceil(usual.v_max / usual.dac_lsb) <= 2048, "codes of 12 bits"
