"""What joins the instruments of a station: the dies, and which of them is under the needles and touched."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_backends.array.dies.kinds import ArrayDie, ArrayLot, checked_state, die_of
from sim_backends.array.dies.streams import stream
from sim_backends.array.files.npz import UNREADABLE, read_npz
from sim_backends.bench.clock import StationClock
from sim_backends.bench.files import write_atomically
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.bench.truth import TruthFile

_CELL_BYTES, _OTHER_BYTES = 256, 1_000_000  # more than what a die remembers, by cell and beside that
_NO_DIE = 2**32 - 1  # takes the place of a die's index in the key of the noise when nothing is touched


class StateError(RuntimeError):
    """A saved state belongs to other dies than those of this station."""


class Bench:
    """The wafer on the chuck and the needles above it.

    `lock` guards everything below; instruments hold it while they look at or change the die.

    Parameters
    ----------
    lot, seed
        What the dies are drawn from.
    clock, log
        Of the station.
    state
        Folder in which the states of dies survive the process, or None.
    truth
        File for the hidden truth (`sim_backends.bench.truth`), or None.
    truth_dies
        Dies (indices) that the truth covers even if they are never visited.
    """

    def __init__(
        self,
        lot: ArrayLot,
        seed: int,
        clock: StationClock,
        log: PhysicalLog,
        *,
        state: Path | None = None,
        truth: Path | None = None,
        truth_dies: Sequence[int] = (),
    ) -> None:
        self.lot, self.seed, self.clock, self.log = lot, seed, clock, log
        self.lock = threading.RLock()
        self.sites = lot.wafer.sites()
        self.outputs = "hard_ground"
        self._state, self._truth_dies = state, tuple(truth_dies)
        self._truth = None if truth is None else TruthFile(truth, self.sites)
        self._dies: dict[int, ArrayDie] = {}
        self._unsaved: set[int] = set()
        self._under: int | None = None
        self._contact = False
        self._conducts = False
        self._operations_in_air = 0
        self._check_states()

    def _check_states(self) -> None:
        """A state that cannot be used is an error now, not when the needles come down."""
        for index in range(len(self.sites)):
            if self._state is not None and (path := state_path(self._state, index)).exists():
                _saved(path, self.lot, self.seed, index)

    @property
    def contact(self) -> bool:
        """Whether the needles touch the wafer."""
        return self._contact

    def die(self, index: int) -> ArrayDie:
        """A die of the wafer, with the state it was left in."""
        if index not in self._dies:
            die = die_of(self.lot, self.seed, index)
            if self._state is not None:
                load_state(die, state_path(self._state, index))
            self._dies[index] = die
        return self._dies[index]

    def touched(self) -> ArrayDie | None:
        """The die that the needles touch, if they do and conduct."""
        if not self._conducts or self._under is None:
            return None
        self._unsaved.add(self._under)
        return self.die(self._under)

    def air_noise(self, kernel: int) -> np.random.Generator:
        """The noise of the next operation without a die."""
        self._operations_in_air += 1
        return stream(self.seed, _NO_DIE, kernel, self._operations_in_air)

    def move_to(self, index: int | None) -> None:
        """Put a die (None: no die) under the needles."""
        with self.lock:
            self.log.add("move", **self._where(), to=index, contact_while_moving=self._contact, outputs=self.outputs)
            self._under = index

    def touch(self) -> None:
        """Bring the needles down on the wafer."""
        with self.lock:
            if not self._contact:
                self._contact = self._conducts = True
                self.log.add("contact", **self._where(), outputs=self.outputs)

    def lose_contact(self) -> None:
        """Let the needles, though they are down, conduct no more until they come down again."""
        with self.lock:
            self._conducts = False

    def separate(self) -> None:
        """Take the needles off the wafer; saves what has happened."""
        with self.lock:
            if self._contact:
                self._contact = self._conducts = False
                self.log.add("separation", **self._where(), outputs=self.outputs)
                self.save()

    def set_outputs(self, mode: str, why: str) -> None:
        """Change how the board holds the lines; `why` is the request that did it."""
        with self.lock:
            if mode != self.outputs:
                self._log_outputs(mode, why)

    def drive(self, why: str) -> None:
        """The board's amplifiers hold the lines, from the first request that needs them on."""
        self.set_outputs("driven", why)

    def ground(self, why: str) -> None:
        """Ground the lines in an emergency: logged even if they are grounded already."""
        with self.lock:
            self._log_outputs("hard_ground", why)
            self.log.flush()

    def note(self, what: str, **details: object) -> None:
        """Log something that the board did to whatever is under the needles, if they conduct."""
        self.log.add(what, **self._where(), contact=self._conducts, **details)

    def _log_outputs(self, mode: str, why: str) -> None:
        self.outputs = mode
        self.log.add("outputs", mode=mode, why=why, **self._where(), contact=self._contact)

    def save(self) -> None:
        """Write states of dies, truth and log to their files."""
        with self.lock:
            unsaved, self._unsaved = self._unsaved, set()
            if self._state is not None:
                for index in unsaved:
                    save_state(self.die(index), state_path(self._state, index))
            if self._truth is not None and (unsaved or not self._truth.path.exists()):
                covered = sorted({*self._truth_dies, *self._dies})
                self._truth.write([self.die(index) for index in covered])
            self.log.flush()

    def _where(self) -> dict[str, object]:
        site = None if self._under is None else list(self.sites[self._under])
        return {"die": self._under, "site": site}


def state_path(folder: Path, index: int) -> Path:
    """File of the state of a die."""
    return folder / f"die_{index}.npz"


def save_state(die: ArrayDie, path: Path) -> None:
    """Write what a die remembers. The file is whole or not there."""
    arrays: dict[str, Any] = {"identity": np.array(json.dumps(_identity(die.lot, die.seed, die.index))), **die.state()}
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_state(die: ArrayDie, path: Path) -> None:
    """Bring a die back to its saved state; does nothing if there is none.

    Raises
    ------
    StateError
        If the file was written for another lot, seed or die, or is damaged.
    """
    if path.exists():
        die.restore(_saved(path, die.lot, die.seed, die.index))


def _saved(path: Path, lot: ArrayLot, seed: int, index: int) -> Mapping[str, NDArray[Any]]:
    """What a die remembers, as saved.

    Raises
    ------
    StateError
        If it is no file of this die.
    """
    expected = _identity(lot, seed, index)
    try:
        saved = read_npz(path, int(np.prod(lot.topology.shape)) * _CELL_BYTES + _OTHER_BYTES)
        identity = json.loads(str(saved["identity"]))
        if identity != expected:
            raise StateError(f"{path} holds {identity}, this station has {expected}; use another state folder")
        return checked_state(lot, saved)
    except StateError:
        raise
    except UNREADABLE as error:
        raise StateError(
            f"{path} is no saved state of a die: {error}; remove it, or use another state folder"
        ) from error


def _identity(lot: ArrayLot, seed: int, index: int) -> dict[str, object]:
    return {"lot": lot.name, "seed": seed, "die": index, "shape": list(lot.topology.shape)}
