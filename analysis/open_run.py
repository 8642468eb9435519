"""A lot's record as tables: what a person looks at in a notebook, also while a run goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from analysis.record.record import Record
from analysis.record.run_contents import dose_of
from analysis.record.step_names import is_called

#: The step of the lot that says how large its arrays are.
_SURVEY_VARIABLE = "sites"


def open_run(folder: Path | str) -> OpenRun:
    """Open a lot's folder for reading; it may be in use by a run.

    Raises
    ------
    RecordError
        If there is no sound record in it.
    """
    return OpenRun(Record.open(folder, create=False, write=False))


class OpenRun:
    """Views of a record; each asks the record anew, so that a run in progress is seen as it is now.

    Times are UTC (pandas timestamps), amplitudes are in V, widths in s. Use it in a `with` statement, or close it.
    """

    def __init__(self, record: Record) -> None:
        self.record = record

    def close(self) -> None:
        """Close the record."""
        self.record.close()

    def __enter__(self) -> OpenRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def runs(self) -> pd.DataFrame:
        """A row per run: protocol, started, ended, status, resumes, pid, provenance."""
        columns = ["id", "protocol", "started", "ended", "status", "resumes", "pid", "provenance"]
        return _frame(self.record.runs(), columns).set_index("id")

    @property
    def events(self) -> pd.DataFrame:
        """A row per event: run, die, time, kind, message, data."""
        return _frame(self.record.events(), ["run", "die", "time", "kind", "message", "data"])

    @property
    def verdicts(self) -> pd.DataFrame:
        """The newest verdict of each die: verdict, bin, reason, run, time."""
        columns = ["die", "verdict", "bin", "reason", "run", "time"]
        return _frame([asdict(verdict) for verdict in self.record.verdicts().values()], columns).set_index("die")

    def steps(self, die: str | None = None) -> pd.DataFrame:
        """A row per step ever done, of one die or all; `holds` is False for those that were superseded."""
        columns = ["id", "die", "protocol", "name", "function", "verdict", "run", "started", "ended", "holds"]
        rows = [
            {**asdict(row.step), "protocol": row.protocol, "holds": row.superseded_by is None}
            for row in self.record.steps(die)
        ]
        return _frame(rows, columns).set_index("id")

    def dataset(self, step_id: int) -> xr.Dataset:
        """The result of a step.

        Raises
        ------
        RecordError
            If there is no such step, or it is damaged.
        """
        return self.record.load(int(step_id))

    def results(self, name: str) -> dict[str, list[xr.Dataset]]:
        """Results of a step that hold, of any protocol, by die: ``measure-states``, or its function."""
        found: dict[str, list[xr.Dataset]] = {}
        for row in self.record.steps():
            if row.superseded_by is None and is_called(name, row.step.name, row.step.function):
                found.setdefault(row.step.die, []).append(self.record.load(row.step))
        return found

    def pulses(self, die: str) -> pd.DataFrame:
        """A row per pulse that was committed: kernel, amplitude, width, count, scheme, cells, time, batch, fired.

        `fired` is True or False where that is known, else missing: such a pulse counts in the dose.
        """
        columns = ["kernel", "amplitude", "width", "count", "scheme", "cells", "time", "batch", "fired"]
        rows = [
            {
                **{key: getattr(intent.pulse, key) for key in columns[:5]},
                "cells": int(intent.pulse.mask.sum()),
                **{key: getattr(intent, key) for key in columns[6:]},
            }
            for intent in self.record.intents(die)
        ]
        return _frame(rows, columns).astype({"fired": "boolean"})

    def dose(self, die: str) -> xr.DataArray:
        """Pulses that each cell has had, ``[kernel, row, column]``, as an upper bound."""
        shape, intents = self._shape(), self.record.intents(die)
        total = dose_of(intents) if shape is None else self.record.dose(die, shape)
        return xr.DataArray(total, dims=("kernel", "row", "column"), name="dose", attrs={"die": die})

    def programmed(self, die: str) -> xr.Dataset | None:
        """What is programmed on a die now, None if nothing was.

        That is the newest step whose result has `wanted` and `states`. Its attributes say more: `step` its number,
        `ended` (s since the epoch), and `pulsed_since`, True if pulses were committed after it, so that the die may
        hold something else.
        """
        step = self.record.newest_step_with(die, "wanted", "states")
        if step is None:
            return None
        since = self.record.pulsed_since(die, step.id)
        return self.record.load(step).assign_attrs(step=step.id, ended=step.ended, pulsed_since=since)

    def _shape(self) -> tuple[int, int, int] | None:
        """Kernels, rows and columns of a die as the station said, None if no station was asked."""
        survey = self.record.latest_with("", _SURVEY_VARIABLE)
        geometry = {} if survey is None else survey.attrs.get("geometry", {})
        try:
            return int(geometry["kernels"]), int(geometry["rows"]), int(geometry["columns"])
        except KeyError:
            return None


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns)
    for name in {"started", "ended", "time"} & set(columns):
        frame[name] = pd.to_datetime(frame[name].astype(float), unit="s", utc=True)
    return frame
