"""Simulated transfers from the command line: points are kept, folders checked, table and page made of them."""

import json
import re
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis.studies.transfer_curves import conclusions, render
from analysis.studies.transfer_results import LOOP, METRICS, RATES, checks, spread, summary
from mapping.training.moon_training import RECIPES
from mapping.training.moons import FILES, MoonsError, half_moons
from protocols.cli import app
from protocols.studies.tio2_transfers import MapNameError, TransfersFolderError, simulate_transfers
from protocols.studies.transfer_study import MEASURES, SHOWN

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both maps, two seeds, as little of everything as there can be."""
    folder = tmp_path_factory.mktemp("transfers")
    with mock.patch("protocols.studies.tio2_transfers.write_page"):  # drawn when all is there
        simulate_transfers(folder, transfers=40, seeds=[0], epochs=30)
    first = numbers(folder)
    first["points"][0]["table"]["regular"]["f95"] = 0.123  # a mark that computing anew would not give
    (folder / "transfers.json").write_text(json.dumps(first), encoding="utf-8")
    simulate_transfers(folder, transfers=40, seeds=[0, 1], maps="paper", epochs=30)
    return folder


def numbers(folder):
    return json.loads((folder / "transfers.json").read_text(encoding="utf-8"))


def test_what_is_finished_is_kept(folder):
    points = numbers(folder)["points"]
    assert [(p["map"], p["seed"]) for p in points] == [("physical", 0), ("paper", 0), ("paper", 1)]
    assert points[0]["table"]["regular"]["f95"] == 0.123


def test_results_hold_every_number(folder):
    found = numbers(folder)
    physical, paper = found["maps"]["physical"], found["maps"]["paper"]
    assert set(physical["table"]) == set(RECIPES)
    assert set(physical["loop"]["ablation"]) == set(MEASURES)
    assert "loop" not in paper and paper["seeds"] == [0, 1]
    for metrics in (*physical["table"].values(), *paper["table"].values(), physical["device"]["metrics"]):
        assert set(metrics) == set(METRICS)
        assert all(0 <= number["low"] <= number["mean"] <= number["high"] <= 1 for number in metrics.values())
    for net in SHOWN:
        assert len(paper["cliff"][net]) == len(RATES)
        assert set(paper["sources"][net]) == {"tuning", "drift", "stuck", "all", "no stuck cells"}
    assert found["settings"]["moons"] == half_moons().source
    assert physical["loop"]["calibration"] == {"writes": 128, "reads": 192}
    assert found["provenance"]["packages"]["numpy"]


def test_the_page_opens_offline_and_holds_every_table(folder):
    page = (folder / "transfers.html").read_text(encoding="utf-8")
    assert not re.search(r"<(?:script|link)[^>]+(?:src|href)=", page)
    for words in ("Closed loop for each die", "array device", "Physical map", "Paper map", *RECIPES, *MEASURES):
        assert words in page
    assert not list(folder.glob("*.part"))


def test_text_on_the_page_is_escaped(folder):
    found = numbers(folder)
    found["settings"]["moons"] = "<b>mine</b>"
    del found["maps"]["physical"]  # one map's figures are enough here
    assert "<b>mine</b>" not in render(found)


def test_conclusions_tell_both_maps_and_the_loop(folder):
    said = " ".join(conclusions(numbers(folder)))
    assert "physical map: f95" in said and "paper map: f95" in said and "Closed loop on the array device" in said


def test_a_folder_of_other_settings_is_refused(folder):
    before = (folder / "transfers.json").read_bytes()
    with pytest.raises(TransfersFolderError, match=r"other settings \(transfers, dies\).*another --out"):
        simulate_transfers(folder, transfers=50, seeds=[0], epochs=30)
    assert (folder / "transfers.json").read_bytes() == before


@pytest.mark.parametrize("content", ["{", "[]", '{"points": [{}], "settings": {}}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "transfers.json").write_text(content, encoding="utf-8")
    with pytest.raises(TransfersFolderError, match="not a result of xbar simulate tio2-transfers"):
        simulate_transfers(tmp_path, transfers=40, seeds=[0], epochs=30)


def test_an_unknown_map_is_refused(tmp_path):
    with pytest.raises(MapNameError, match="physical, paper or both"):
        simulate_transfers(tmp_path, transfers=40, seeds=[0], maps="ideal")


def test_points_of_others_are_used_or_refused(tmp_path):
    with pytest.raises(MoonsError, match=FILES[0]):
        simulate_transfers(tmp_path / "out", transfers=40, seeds=[0], moons=tmp_path)
    moons = half_moons(7, sizes=(300, 60, 60))
    for name, part in zip(FILES, (moons.train, moons.validation, moons.test), strict=True):
        table = np.column_stack([part.x, part.label])
        np.savetxt(tmp_path / name, table, delimiter=",", header="x0,x1,label", comments="")
    arguments = ["simulate", "tio2-transfers", "--transfers", "20", "--epochs", "5", "--map", "paper",
                 "--moons", str(tmp_path), "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "regular" in done.output and "transfers.json" in done.output
    assert numbers(tmp_path / "out")["settings"]["points"] == [300, 60, 60]


def test_an_unknown_simulation_is_named(tmp_path):
    done = CliRunner().invoke(app, ["simulate", "moons", "--out", str(tmp_path)])
    assert done.exit_code == 2 and "tio2-transfers" in done.output


# numbers over seeds


def metrics(f95):
    return {"f95": f95, "mean": 0.9, "noise_free": 0.95, "worst": 0.1}


def made_up(regular, best, alone=(0.9, 0.3, 0.2), cliff=(0.5, 0.4, 0.2, 0.03, 0, 0, 0)):
    return {
        "map": "paper", "seed": 0, "table": {"regular": metrics(regular), "all techniques": metrics(best)},
        "sources": {"regular": {name: metrics(f) for name, f in zip(("tuning", "drift", "stuck"), alone, strict=True)}},
        "cliff": {"regular": [metrics(f) for f in cliff]}, "curves": {"regular": [1.0]},
    }  # fmt: skip


def test_spread_is_over_seeds():
    assert spread([metrics(0.2), metrics(0.4)])["f95"] == {
        "mean": pytest.approx(0.3), "low": 0.2, "high": 0.4, "per_seed": [0.2, 0.4],
    }  # fmt: skip


def test_summary_is_by_map():
    found = summary([made_up(0.1, 0.7), made_up(0.2, 0.8)])
    assert found["paper"]["table"]["regular"]["f95"]["mean"] == pytest.approx(0.15)
    assert LOOP not in found["paper"]


@pytest.mark.parametrize(
    ("point", "wrong"),
    [
        (made_up(0.15, 0.7), []),
        (made_up(0.3, 0.9), ["f95 of regular", "f95 of all"]),
        (made_up(0.24, 0.68), ["gain"]),
        (made_up(0.15, 0.7, alone=(0.3, 0.9, 0.2)), ["regular network: drift"]),
        (
            made_up(0.15, 0.7, cliff=(0.5, 0.4, 0.6, 0.2, 0.1, 0, 0)),
            ["regular network: f95 falls", "regular network: f95 at"],
        ),
    ],
)
def test_checks_say_what_does_not_hold(point, wrong):
    failed = [what for what, check in checks([point]).items() if not check["holds"]]
    assert len(failed) == len(wrong)
    assert all(what.startswith(start) for what, start in zip(failed, wrong, strict=True))
