"""The part of a record that tells of pulses: committed before they are fired, so that no cell's dose is ever unknown.

A batch is committed (`intend`), fired, and confirmed (`fired`). If a process dies between the first and the last, the
batch is `unfired`: nobody knows how many of its pulses left. A tester that counts what it executes can tell, and
`settle` keeps the answer. Until then, and where nothing can tell, every pulse of it counts as fired.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from analysis.record.datasets import DamagedError, get_dataset, put_conductances, put_dataset, seal, to_json
from analysis.record.lock import RecordError, RecordLock
from analysis.record.pulses import Pulse, check_pulse
from analysis.record.steps import Steps

_BATCH = "id, run, die, time, tester, actions, after_step, power_on, last_seq"
_PULSE = "kernel, amplitude, width, count, scheme, shape, mask"

#: A kernel beyond these is no kernel but damage: a dose would take all memory (assumed; boards have 8).
MOST_KERNELS = 4096


@dataclass(frozen=True)
class Batch:
    """Pulses that were committed together.

    `actions`: what the tester had executed before (None: it does not count), `power_on`: since when (None: unknown),
    `last_seq`: the number of the last frame that it had executed.
    """

    id: int
    run: int
    die: str
    tester: str
    actions: int | None
    kernels: tuple[int, ...]
    power_on: str | None = None
    last_seq: int | None = None


@dataclass(frozen=True)
class Intent:
    """A committed pulse, its place in the ledger, and whether it was fired (None: unknown, it counts as fired).

    `after_step` is the last step of the lot that had been committed before: clocks jump, these numbers do not.
    """

    run: int
    batch: int
    position: int
    time: float
    fired: bool | None
    pulse: Pulse
    after_step: int = 0


@dataclass(frozen=True)
class _Sum:
    """The dose of a die up to a batch, and how many batches had been settled."""

    total: NDArray[np.int64]
    batch: int
    settled: int


class Ledger(Steps):
    """Pulses of a lot, what was read after them, and the dose that follows."""

    def __init__(self, connection: sqlite3.Connection, folder: Path, lock: RecordLock | None) -> None:
        super().__init__(connection, folder, lock)
        self._doses: dict[str, _Sum] = {}

    def intend(
        self,
        run: int,
        die: str,
        pulses: Iterable[Pulse],
        *,
        tester: str = "",
        actions: int | None = None,
        power_on: str | None = None,
        last_seq: int | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> int:
        """Commit pulses that are about to be fired; it survives a power cut when this returns.

        Parameters
        ----------
        tester : str
            Who will fire them, as it identifies itself.
        actions : int or None
            How many pulse frames the tester had executed before; lets `settle` find out after a crash.
        power_on : str or None
            What the tester calls the time since it was switched on, in which it counts; None if it does not tell.
        last_seq : int or None
            Number of the last pulse frame that it had executed; None if it does not tell.
        shape : (int, int, int) or None
            Kernels, rows and columns of the die; a pulse at cells beyond them is refused.

        Returns
        -------
        int
            Number of the batch.

        Raises
        ------
        PulseError
            For a pulse that no tester could fire; nothing is committed.
        """
        given = list(pulses)
        for pulse in given:
            check_pulse(pulse, shape)
        kernels, rows = None if shape is None else shape[0], [_pulse_row(pulse) for pulse in given]
        with self._transaction(durable=True) as db:
            batch, step = db.execute(
                "SELECT COALESCE(MAX(id), 0) + 1, (SELECT COALESCE(MAX(id), 0) FROM steps) FROM batches"
            ).fetchone()
            row = (batch, run, die, time.time(), tester, actions, step, power_on, last_seq)
            db.execute(
                f"INSERT INTO batches ({_BATCH}, seal) VALUES (?,?,?,?,?,?,?,?,?,?)", (*row, _batch_seal(row, rows))
            )
            db.executemany(
                f"INSERT INTO pulses (batch, position, {_PULSE}, kernels) VALUES (?,?,?,?,?,?,?,?,?,?)",
                [(batch, position, *pulse, kernels) for position, pulse in enumerate(rows)],
            )
        return int(batch)

    def fired(self, batch: int) -> None:
        """Note that every pulse of a batch was fired and answered."""
        self._change("UPDATE batches SET fired=? WHERE id=?", (time.time(), batch))

    def settle(self, batch: int, frames: int | None) -> None:
        """Say what became of an unfired batch: its first `frames` pulses were fired and no others; None: unknown.

        Raises
        ------
        RecordError
            If the batch is not unfired: what is known of a dose is never made less.
        """
        if frames is not None and frames < 0:
            raise ValueError(f"{frames} pulses cannot have been fired")
        done = self._change(
            "UPDATE batches SET settled=?, frames=?, settled_by=(SELECT MAX(id) FROM runs) "
            "WHERE id=? AND fired IS NULL AND settled IS NULL",
            (time.time(), frames, batch),
        )
        if done.rowcount != 1:
            raise RecordError(f"batch {batch} in {self.folder} is not waiting to be settled; see unfired(die)")

    def unfired(self, die: str) -> list[Batch]:
        """Batches that were committed and neither confirmed nor settled; their cells are read before any pulse."""
        rows = self._rows(
            "SELECT id, run, die, tester, actions, power_on, last_seq FROM batches "
            "WHERE die=? AND fired IS NULL AND settled IS NULL ORDER BY id",
            (die,),
        )
        kernels = "SELECT kernel FROM pulses WHERE batch=? ORDER BY position"
        return [
            Batch(batch, run, name, tester, actions, tuple(k for (k,) in self._rows(kernels, (batch,))), *told)
            for batch, run, name, tester, actions, *told in rows
        ]

    def pulses(self, die: str) -> list[Pulse]:
        """Every pulse of a die that may have been fired, oldest first: an upper bound of what it got."""
        return [intent.pulse for intent in self.intents(die) if intent.fired is not False]

    def intents(self, die: str, after: int = 0) -> list[Intent]:
        """Every pulse committed for a die, oldest first, of batches later than `after`.

        Raises
        ------
        RecordError
            If a batch was edited or damaged.
        """
        batches = self._rows(
            f"SELECT {_BATCH}, seal, fired, settled, frames FROM batches WHERE die=? AND id>? ORDER BY id", (die, after)
        )
        pulses: dict[int, list[tuple[Any, ...]]] = {}
        for batch, *fields in self._rows(
            f"SELECT batch, {_PULSE} FROM pulses WHERE batch IN (SELECT id FROM batches WHERE die=? AND id>?) "
            "ORDER BY batch, position",
            (die, after),
        ):
            pulses.setdefault(batch, []).append(tuple(fields))
        found = []
        for *row, its_seal, fired, settled, frames in batches:
            number, rows = row[0], pulses.get(row[0], [])
            if _batch_seal(tuple(row), rows) != its_seal:
                raise self._damaged_batch(number, die, "was edited or damaged (its seal does not hold)")
            for position, pulse in enumerate(rows):
                known = True if fired is not None else None if settled is None or frames is None else position < frames
                try:
                    found.append(Intent(row[1], number, position, row[3], known, _pulse(pulse), row[6]))
                except (ValueError, TypeError) as error:
                    raise self._damaged_batch(number, die, str(error)) from error
        return found

    def pulsed_since(self, die: str, step: int) -> bool:
        """Whether pulses were committed for a die after a step was."""
        return any(intent.fired is not False for intent in self.intents(die, after=self.batch_before(die, step)))

    def batch_before(self, die: str, step: int) -> int:
        """Number of the last batch before those that were committed for a die after a step."""
        ((first,),) = self._rows("SELECT MIN(id) FROM batches WHERE die=? AND after_step>=?", (die, step))
        if first is None:
            ((first,),) = self._rows("SELECT COALESCE(MAX(id), 0) + 1 FROM batches", ())
        return int(first) - 1

    def dose(self, die: str, shape: tuple[int, int, int]) -> NDArray[np.int64]:
        """Pulses per cell of a die, ``[kernel, row, column]``, as an upper bound; only what is new is added up."""
        ((settled,),) = self._rows("SELECT COUNT(*) FROM batches WHERE die=? AND settled IS NOT NULL", (die,))
        known = self._doses.get(die)
        if known is None or known.settled != settled or known.total.shape != shape:
            known = _Sum(np.zeros(shape, np.int64), 0, settled)
        new = self.intents(die, after=known.batch)
        total = known.total.copy()
        for intent in new:
            if intent.fired is not False:
                if intent.pulse.kernel >= shape[0] or intent.pulse.mask.shape != shape[1:]:
                    what = f"pulses kernel {intent.pulse.kernel} of {list(intent.pulse.mask.shape)} cells"
                    raise self._damaged_batch(intent.batch, die, f"{what}, the die has {list(shape)}")
                total[intent.pulse.kernel] += intent.pulse.mask * max(0, intent.pulse.count)  # schema 3 held others
        if new:
            self._doses[die] = _Sum(total.copy(), new[-1].batch, settled)
        return total

    def keep_readings(self, batch: int, readings: xr.Dataset) -> None:
        """Commit what was read after a batch."""
        what = f"readings of batch {batch}"
        attrs = to_json({str(key): value for key, value in readings.attrs.items()}, what)
        self._keep(batch, attrs, lambda db: put_dataset(db, readings, what))

    def keep_conductances(self, batch: int, kernels: NDArray[np.int64], g: NDArray[np.float32]) -> None:
        """Commit the conductances (S) of some kernels, ``[kernel, row, column]``, that were read after a batch.

        They are kept, and found by `readings`, as a dataset of `g` is; only that none is made after every pulse.

        Raises
        ------
        ValueError
            If `g` is not of that shape; nothing is kept.
        """
        self._keep(batch, "{}", lambda db: put_conductances(db, kernels, g, f"readings of batch {batch}"))

    def _keep(self, batch: int, attrs: str, put: Callable[[sqlite3.Connection], str]) -> None:
        """Commit readings; `put` stores their arrays and gives their description."""
        with self._transaction() as db:
            number = int(db.execute("SELECT COALESCE(MAX(id), 0) + 1 FROM readings").fetchone()[0])
            row = (number, batch, time.time(), attrs, put(db))
            db.execute("INSERT INTO readings VALUES (?,?,?,?,?,?)", (*row, seal(*row)))

    def readings(self, die: str, after: int = 0) -> list[tuple[int, xr.Dataset]]:
        """What was read on a die after batches later than `after`: number of the batch and data, oldest first."""
        found = []
        for *row, its_seal in self._rows(
            "SELECT * FROM readings WHERE batch IN (SELECT id FROM batches WHERE die=? AND id>?) ORDER BY id",
            (die, after),
        ):
            try:
                if seal(*row) != its_seal:
                    raise DamagedError("readings were edited or damaged (their seal does not hold)")
                found.append((int(row[1]), get_dataset(row[4], row[3], self._fetch_array)))
            except DamagedError as error:
                raise self._damaged_batch(row[1], die, str(error)) from error
        return found

    def dies(self) -> list[str]:
        """Names of the dies that have steps or pulses, in the order they were first met."""
        rows = self._rows(  # a batch stands between the steps that were committed before and after it
            "SELECT die FROM (SELECT die, id AS step, 0 AS batch FROM steps UNION ALL "
            "SELECT die, after_step + 0.5, id FROM batches) WHERE die NOT IN ('', '(computed)') "
            "GROUP BY die ORDER BY MIN(step), MIN(batch)"
        )
        return [str(die) for (die,) in rows]

    def _damaged_batch(self, batch: int, die: str, what: str) -> RecordError:
        return RecordError(
            f"pulse batch {batch} on {die} in {self.origin}: {what}. "
            "Restore the file from a backup, or choose another folder with --out"
        )


def _pulse_row(pulse: Pulse) -> tuple[Any, ...]:
    bits = np.packbits(pulse.mask, bitorder="little").tobytes()
    shape = json.dumps(pulse.mask.shape)
    return (int(pulse.kernel), float(pulse.amplitude), float(pulse.width), int(pulse.count), pulse.scheme, shape, bits)


def _pulse(row: tuple[Any, ...]) -> Pulse:
    kernel, amplitude, width, count, scheme, shape, bits = row
    rows, columns = json.loads(shape)
    if not (rows > 0 and columns > 0 and rows * columns <= 8 * len(bits) and 0 <= kernel < MOST_KERNELS):
        raise DamagedError(f"holds a pulse at kernel {kernel} of shape {shape} that cannot be")
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=rows * columns, bitorder="little")
    return Pulse(kernel, mask.reshape(rows, columns).astype(bool), amplitude, width, count, scheme)


def _batch_seal(row: tuple[Any, ...], pulses: list[tuple[Any, ...]]) -> str:
    """The seal of a batch; without what the tester tells of itself it is what it was in records of schema 3."""
    fields = row if row[-2:] != (None, None) else row[:-2]
    return seal(*fields, *((*pulse[:-1], pulse[-1].hex()) for pulse in pulses))
