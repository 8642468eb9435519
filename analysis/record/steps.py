"""The part of a record that tells of steps: what was done to which die, with what result, sealed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from analysis.record.database import Database
from analysis.record.datasets import DamagedError, from_json, get_dataset, put_dataset, seal, to_json
from analysis.record.lock import RecordError
from analysis.record.step_names import name_of

#: What stands as the die of a pure computation: it belongs to no die and is found by its content.
COMPUTED = "(computed)"

#: What a step's seal covers, and the order it stands in.
_SEALED = ("id, run, protocol, die, function, source, inputs_digest, inputs, started, ended, verdict, attrs, "
           "variables")  # fmt: skip
_INSERT = f"INSERT INTO steps ({_SEALED}, name, seal) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_SELECT = f"SELECT {_SEALED}, name, seal, superseded_by FROM steps"


@dataclass(frozen=True)
class Step:
    """A committed step of a die's history (`die` is "" for steps of the whole lot).

    `name` is what it is called, wherever its code lies; `function` is where the code lay, as module and name.
    """

    id: int
    run: int
    die: str
    name: str
    function: str
    source: str
    inputs_digest: str
    started: float
    ended: float
    verdict: str


@dataclass(frozen=True)
class StepRow:
    """All that a record holds of a step but its arrays; `superseded_by` is a run, or None while the step holds."""

    step: Step
    protocol: str
    inputs: Any
    superseded_by: int | None
    attrs: str
    variables: str


class Steps(Database):
    """Steps of a lot and their results."""

    def append_step(
        self,
        run: int,
        protocol: str,
        die: str,
        function: str,
        source: str,
        inputs_digest: str,
        inputs: Any,
        started: float,
        result: xr.Dataset,
        *,
        name: str = "",
    ) -> Step:
        """Commit a step with its result in one transaction.

        Parameters
        ----------
        function, name : str
            Where the step's code lies, and what the step is called; by default what records of schema 3 called it.

        Raises
        ------
        RecordError
            If it cannot be committed; nothing of it is in the record then.
        TypeError
            If the result holds what a record does not: objects, or attributes other than numbers, text, lists of them.
        """
        name = name or name_of(function)
        started, ended, verdict = float(started), time.time(), str(result.attrs.get("verdict", ""))
        attrs = to_json({str(key): value for key, value in result.attrs.items()}, function)
        given = to_json(inputs, f"{function}: inputs")
        with self._transaction() as db:
            step = int(db.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM steps").fetchone()[0])
            variables = put_dataset(db, result, function)
            row = (step, run, protocol, die, function, source, inputs_digest, given, started, ended, verdict, attrs,
                   variables)  # fmt: skip
            db.execute(_INSERT, (*row, name, _seal(row, name)))
        return Step(step, run, die, name, function, source, inputs_digest, started, ended, verdict)

    def supersede(self, steps: Iterable[Step], run: int) -> None:
        """Mark steps as no longer holding; they stay in the record."""
        with self._transaction() as db:
            db.executemany("UPDATE steps SET superseded_by=? WHERE id=?", [(run, step.id) for step in steps])

    def history(self, protocol: str, die: str) -> list[Step]:
        """The steps of a protocol that hold on a die, in the order they were done."""
        where = "protocol=? AND die=? AND superseded_by IS NULL ORDER BY id"
        return [row.step for row in self._step_rows(where, protocol, die)]

    def steps(self, die: str | None = None) -> list[StepRow]:
        """Every step ever committed, of one die or all, oldest first, whether it holds or not."""
        return self._step_rows("?1 IS NULL OR die=?1 ORDER BY id", die)

    def load(self, step: Step | int) -> xr.Dataset:
        """The result of a step (or of the step of this number).

        Raises
        ------
        RecordError
            If the step or one of its arrays was edited or damaged, or there is no such step.
        """
        number = step if isinstance(step, int) else step.id
        rows = self._step_rows("id=?", number)
        if not rows:
            raise RecordError(f"there is no step {number} in {self.folder}")
        return self._result(rows[0])

    def results(self, protocol: str, name: str) -> dict[str, list[xr.Dataset]]:
        """All results of a step that hold, by die; `name` is what it is called, now or in records of schema 3."""
        where = "protocol=? AND name=? AND superseded_by IS NULL ORDER BY id"
        found: dict[str, list[xr.Dataset]] = {}
        for row in self._step_rows(where, protocol, name_of(name)):
            found.setdefault(row.step.die, []).append(self._result(row))
        return found

    def latest_with(self, die: str, variable: str) -> xr.Dataset | None:
        """The newest result for a die, of any protocol, that has `variable`; None if there is none."""
        step = self.newest_step_with(die, variable)
        return None if step is None else self.load(step)

    def newest_step_with(self, die: str, *variables: str) -> Step | None:
        """The newest step on a die, of any protocol, whether it holds or not, whose result has all `variables`."""
        for (number,) in self._rows("SELECT id FROM steps WHERE die=? ORDER BY id DESC", (die,)):
            (row,) = self._step_rows("id=?", number)
            try:
                names = {variable[0] for variable in from_json(row.variables)}
            except (DamagedError, TypeError, IndexError, KeyError) as error:
                raise self._damaged(row.step.id, row.step.name, die, f"variables: {error}") from error
            if set(variables) <= names:
                return row.step
        return None

    def find(self, protocol: str, name: str, source: str, inputs_digest: str) -> Step | None:
        """A computation of the lot that was done before with the same source and inputs."""
        where = "protocol=? AND die=? AND name=? AND source=? AND inputs_digest=? ORDER BY id DESC LIMIT 1"
        rows = self._step_rows(where, protocol, COMPUTED, name, source, inputs_digest)
        return rows[0].step if rows else None

    def computed(self, protocol: str, name: str, inputs_digest: str) -> list[Step]:
        """Computations of a name that were done before with the same inputs, with whatever source, newest first."""
        where = "protocol=? AND die=? AND name=? AND inputs_digest=? ORDER BY id DESC"
        return [row.step for row in self._step_rows(where, protocol, COMPUTED, name, inputs_digest)]

    def _step_rows(self, where: str, *values: Any) -> list[StepRow]:
        """Steps whose seals hold."""
        found = []
        for *row, name, its_seal, superseded_by in self._rows(f"{_SELECT} WHERE {where}", values):
            number, run, protocol, die, function, source, inputs_digest, inputs, started, ended, verdict = row[:11]
            if _seal(row, name) != its_seal:
                raise self._damaged(number, name, die, "was edited or damaged (its seal does not hold)")
            step = Step(number, run, die, name, function, source, inputs_digest, started, ended, verdict)
            try:
                given = from_json(inputs)
            except DamagedError as error:
                raise self._damaged(number, name, die, f"inputs: {error}") from error
            found.append(StepRow(step, protocol, given, superseded_by, row[11], row[12]))
        return found

    def _result(self, row: StepRow) -> xr.Dataset:
        try:
            return get_dataset(row.variables, row.attrs, self._fetch_array)
        except DamagedError as error:
            raise self._damaged(row.step.id, row.step.name, row.step.die, str(error)) from error

    def _fetch_array(self, key: str) -> Any:
        return self._row("SELECT dtype, shape, stored, data FROM arrays WHERE hash=?", (key,))

    def _damaged(self, number: int, name: str, die: str, what: str) -> RecordError:
        where = f" on {die}" if die else ""
        return RecordError(
            f"step {number} ({name}{where}) in {self.origin}: {what}. "
            "Restore the file from a backup, or choose another folder with --out"
        )


def _seal(row: Sequence[Any], name: str) -> str:
    """The seal of a step; of its name only where that is not the one that records of schema 3 have for the function.

    So those records keep their seals when they are converted.
    """
    return seal(*row) if name == name_of(row[4]) else seal(*row, name)
