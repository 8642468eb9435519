"""Options that would change nothing are refused by name."""

import json

import pytest
import torch
from typer.testing import CliRunner

from mapping.dies.geometry import MTJ_20K, PASSIVE_8X8, ArrayGeometry, CellKindError, check_cells
from protocols.cli import app
from protocols.commands.map import MapError, geometry_named, settings_with

MOONS = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 1))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    signs = torch.sign(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)))
    torch.save({"fc.weight": signs}, folder / "binary.pt")
    torch.save({"fc.weight": signs * torch.rand(4, 10)}, folder / "real.pt")
    torch.save(MOONS.state_dict(), folder / "moons.pt")
    return folder


def said(*words):
    """What a command says, and whether it did it."""
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    return done.exit_code, f"{done.output}{done.exception or ''}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cap", "0.8V"), "--cap has an effect only with --coding analog"),
        (("--scheme", "V/3"), "--scheme"),
        (("--scheme", "V/2"), "--scheme"),  # the default, but given
        (("--tolerance", "0.5%"), "--tolerance"),
        (("--parallel", "line"), "--parallel"),
        (("--pairs", "physical"), "--pairs"),
        (("--geometry", "passive-8x8"), "no gates"),
        (("--coding", "ternary", "--cap", "0.8V"), "--cap"),
    ],
)
def test_binary_weights_are_mapped_without_analog_options(weights, tmp_path, words, says):
    status, text = said("map", weights / "binary.pt", "-o", tmp_path / "a.h5", *words)
    assert status != 0 and says in text and not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("file", "words", "says"),
    [
        ("moons.pt", ("--rows", "3"), "--rows has an effect only with --coding binary or ternary"),
        ("moons.pt", ("--binarise",), "--binarise"),
        ("moons.pt", ("--copies", "2", "--copies", "3"), "leave --copies out"),
        ("real.pt", ("--geometry", "mtj-20k"), "cells with a gate"),
        ("real.pt", ("--cap", "1,2V"), "write a point for a decimal comma"),
        ("real.pt", ("--cap", "5V"), "give something between"),
        ("real.pt", ("--cap", "yes"), "--cap: 'yes' is no quantity"),
        ("real.pt", ("--tolerance", "150 %"), "more than 100 %"),
        ("real.pt", ("--tolerance", "1"), "tolerance"),
    ],
)
def test_analog_weights_are_mapped_without_those_of_states(weights, tmp_path, file, words, says):
    where = () if "--geometry" in words else ("--geometry", "passive-8x8")
    status, text = said("map", weights / file, "-o", tmp_path / "a.h5", "--coding", "analog", *where, *words)
    assert status != 0 and says in text and not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("simulate", "mtj-lots", "--transfers", "100"), "--transfers has an effect only in xbar simulate"),
        (("simulate", "mtj-lots", "--map", "paper"), "--map"),
        (("simulate", "tio2-transfers", "--lot", "mtj", "--dies", "4"), "--lot"),
        (("run", "mtj-mnist", "--golden-every", "4"), "--golden-every has an effect only with --golden"),
        (("run", "mtj-mnist", "--station", "s.yaml", "--lot", "mtj"), "--lot"),
        (("program", "a.h5", "--station", "s.yaml", "--seed", "1"), "--seed"),
        (("program", "a.h5", "--golden-every", "4"), "--golden-every"),
        (("plan", "mtj-mnist", "--like", "x", "--lot", "mtj"), "--lot has an effect only without --like"),
        (("run", "mtj-mnist", "--set", "v_read=0.1", "--v-read", "0.2"), "v_read is given twice"),
        (("run", "mtj-mnist", "--v-read", "0.1", "--v-read", "0.2"), "v_read is given twice"),
        (("run", "mtj-mnist", "--set", "v_read=0.1", "--set", "v-read=0.2"), "v_read is given twice"),
    ],
)  # fmt: skip
def test_an_option_without_effect_is_refused_before_anything_is_done(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    status, text = said(*words)
    assert status != 0 and says in text and not list(tmp_path.iterdir())


def test_the_kind_of_cells_is_told_where_the_geometry_tells_it():
    check_cells(MTJ_20K, analog=False)
    check_cells(PASSIVE_8X8, analog=True)
    for analog in (False, True):
        check_cells(ArrayGeometry.tiled(5, 4, 1, 5, 4), analog=analog)  # one array of no name: the station knows
    with pytest.raises(CellKindError):
        check_cells(ArrayGeometry.tiled(5, 4, 2, 5, 4), analog=True)


@pytest.mark.parametrize("cap", [float("nan"), float("inf"), 0.0, -1.2, 20.0])
def test_a_cap_that_is_none_is_refused(cap):
    with pytest.raises(MapError, match="ramps start at"):
        settings_with(tolerance=0.01, cap=cap)


@pytest.mark.parametrize(
    "change",
    [{"rows": True}, {"rows": 25.0}, {"rows": "25"}, {"rows": -25}, {"rows": float("nan")}, {"kernels": 0},
     {"kernel_row": [0]}, {"kernel_row": [0] * 31 + [90]}, {"kernel_block": [0.0] * 32}, {"kernel_block": 3},
     {"blocks": 1}, {"cells": 7}],
)  # fmt: skip
def test_a_geometry_from_a_file_is_whole_numbers_that_fit(tmp_path, change):
    file = tmp_path / "geometry.json"
    file.write_text(json.dumps(MTJ_20K.to_dict()), encoding="utf-8")
    assert geometry_named(str(file)) == MTJ_20K
    file.write_text(json.dumps(MTJ_20K.to_dict() | change), encoding="utf-8")
    with pytest.raises(MapError, match="is not a geometry"):
        geometry_named(str(file))
