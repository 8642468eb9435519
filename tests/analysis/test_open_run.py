"""A record opened for looking: tables and arrays that say what the record says, also while a run goes on."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from record_files import append, some_result

from analysis.open_run import open_run
from analysis.record.record import Pulse, Record, RecordError

MASK = np.eye(3, 4, dtype=bool)
PROGRAMMED = xr.Dataset({name: ("kernel", np.arange(2)) for name in ("wanted", "states")}, attrs={"verdict": "pass"})


@pytest.fixture
def lot(tmp_path):
    """A run in progress."""
    with Record.open(tmp_path) as record:
        record.begin_run("p", {"seed": 1})
        yield record


def test_runs_steps_events_and_verdicts_are_tables(lot):
    with open_run(lot.folder) as opened:
        assert len(opened.steps()) == 0 and len(opened.events) == 0 and len(opened.verdicts) == 0
        step = append(lot, 1, some_result(), die="c0r0", function="m.f")
        other = append(lot, 1, some_result(2.0), die="c1r0", function="m.f")
        lot.supersede([other], 1)
        lot.event(1, "enter", "at c0r0", "c0r0", x=1)
        lot.set_verdict(1, "c0r0", "fail", bin=4, reason="open line")
        assert opened.runs.loc[1, "status"] == "running" and opened.runs.loc[1, "provenance"] == {"seed": 1}
        assert pd.isna(opened.runs.loc[1, "ended"])
        assert opened.steps()["holds"].tolist() == [True, False]
        assert opened.steps("c0r0").index.tolist() == [step.id]
        assert abs(opened.steps().loc[step.id, "ended"] - pd.Timestamp.now("UTC")) < pd.Timedelta(minutes=1)
        assert opened.events.loc[0, "data"] == {"x": 1}
        assert opened.verdicts.loc["c0r0", "bin"] == 4
        assert opened.dataset(step.id).identical(some_result())
        assert list(opened.results("f")) == ["c0r0"] == list(opened.results("m.f"))
        with pytest.raises(RecordError, match="no step 99"):
            opened.dataset(99)


def test_pulses_and_dose_are_seen_as_they_come(lot):
    with open_run(lot.folder) as opened:
        assert len(opened.pulses("d")) == 0 and opened.dose("d").size == 0
        lot.fired(lot.intend(1, "d", [Pulse(1, MASK, -0.8, 2e-7, 3)]))
        assert opened.dose("d").dims == ("kernel", "row", "column")
        assert np.array_equal(opened.dose("d")[1], 3 * MASK)
        lot.settle(lot.intend(1, "d", [Pulse(0, MASK, 0.8, 1e-7)] * 2), 1)
        lot.intend(1, "d", [Pulse(1, ~MASK, 0.8, 1e-7)])
        table = opened.pulses("d")
        assert table["fired"].tolist() == [True, True, False, pd.NA]
        assert table["cells"].tolist() == [3, 3, 3, 9] and table["batch"].tolist() == [1, 2, 2, 3]
        assert opened.dose("d").sum() == 3 * 3 + 3 + 9


def test_the_dose_has_the_shape_of_the_die_that_was_surveyed(lot):
    geometry = {"kernels": 5, "rows": 3, "columns": 4}
    append(lot, 1, xr.Dataset({"sites": ("die", [1])}, attrs={"geometry": geometry}), die="")
    lot.intend(1, "d", [Pulse(1, MASK, 0.8, 1e-7)])
    with open_run(lot.folder) as opened:
        assert opened.dose("d").shape == (5, 3, 4) == opened.dose("never touched").shape


def test_what_is_programmed_is_the_newest_program_step_and_whether_pulses_came_after(lot):
    with open_run(lot.folder) as opened:
        assert opened.programmed("d") is None
        lot.intend(1, "d", [Pulse(1, MASK, 0.8, 1e-7)])
        append(lot, 1, PROGRAMMED)
        step = append(lot, 1, PROGRAMMED + 1)
        append(lot, 1, some_result())
        found = opened.programmed("d")
        assert found.attrs["step"] == step.id and not found.attrs["pulsed_since"] and found["states"].values[0] == 1
        lot.intend(1, "d", [Pulse(1, MASK, 0.8, 1e-7)])
        assert opened.programmed("d").attrs["pulsed_since"]


def test_a_folder_without_a_record_is_not_opened(tmp_path):
    with pytest.raises(RecordError, match="no record in"):
        open_run(tmp_path / "none")
