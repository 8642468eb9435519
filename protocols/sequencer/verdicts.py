"""What becomes of each die: its verdict and bin, by the words of its steps, and when too many are bad in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from analysis.record.record import VERDICTS, Record
from protocols.bench.bench import Die
from protocols.sequencer.stopping import RunError

#: Bin of each verdict, where a protocol does not say otherwise.
BINS = {"pass": 1, "fail": 2, "inconclusive": 3, "skipped": 4, "aborted": 5, "error": 6}
#: What a step may say in ``attrs["verdict"]``, from best to worst.
OF_STEPS = ("pass", "inconclusive", "fail")

#: Share of all cells of a schedule that must hold what was asked for a write to pass, known defects among them: with
#: fewer, part of the network is not on the die, whoever is to blame (assumed).
PASSING_SHARE = 0.95


class VerdictError(ValueError):
    """There is no such verdict."""


class TooManyFailuresError(RunError):
    """So many dies in a row did not pass that the fault is hardly theirs."""


@dataclass(frozen=True)
class Word:
    """A verdict with its bin and the reason for it."""

    verdict: str
    bin: int
    reason: str = ""


def word(verdict: str, bin: int | None = None, reason: str = "") -> Word:
    """A checked `Word`; the bin is that of the verdict unless it is given.

    Raises
    ------
    VerdictError
        For an unknown verdict.
    """
    if verdict not in VERDICTS:
        raise VerdictError(f"verdict {verdict!r}: there are {', '.join(VERDICTS)}")
    return Word(verdict, BINS[verdict] if bin is None else bin, reason)


def word_of_step(name: str, attrs: Mapping[str, Any]) -> Word:
    """What a step says of its die; a step that says nothing found nothing bad.

    Raises
    ------
    VerdictError
        For a verdict that no step can give.
    """
    verdict = attrs.get("verdict", "pass")
    if verdict not in OF_STEPS:
        raise VerdictError(f"{name} gave verdict {verdict!r}; a step's verdict is {', '.join(OF_STEPS)}")
    reason = str(attrs.get("reason", "" if verdict == "pass" else f"{name.rpartition('.')[2]}: {verdict}"))
    return word(verdict, reason=reason)


@dataclass
class Visit:
    """What a run does at a die in one pass: whether hardware was used, and what was said."""

    die: Die
    touched: bool = False
    words: list[Word] = field(default_factory=list)


class RunVerdicts:
    """The verdicts of one run, as its steps give them."""

    def __init__(self, record: Record, run: int, stop_after: int) -> None:
        self._record, self._run, self._stop_after = record, run, stop_after
        self._known = {die: Word(v.verdict, v.bin, v.reason) for die, v in record.verdicts().items()}
        self._said: dict[str, list[Word]] = {}
        self._own: dict[str, Word] = {}
        self._set: dict[str, Word] = {}
        self._bad: list[tuple[str, Word]] = []
        self.visit: Visit | None = None

    def arrive(self, die: Die) -> None:
        """The run is at this die now."""
        self.visit = Visit(die)

    def touch(self, die: Die) -> None:
        """Hardware is used on the die."""
        if self.visit is not None and self.visit.die == die:
            self.visit.touched = True

    def hear(self, die: str, said: Word) -> None:
        """A step of the die gave its word, now or from the record."""
        self._said.setdefault(die, []).append(said)
        if self.visit is not None and self.visit.die.name == die:
            self.visit.words.append(said)

    def give(self, die: Die, said: Word) -> None:
        """The protocol gives the verdict itself; it holds whatever the steps say."""
        self._own[die.name] = said
        if self.visit is None or self.visit.die != die:
            self._keep(die.name, said)

    def depart(self) -> tuple[Die, Word] | None:
        """Keep the verdict of the die that the run goes on from; returns what is new for a die that was worked on."""
        visit, self.visit = self.visit, None
        if visit is None:
            return None
        name = visit.die.name
        said = self._own.get(name) or worst(self._said.get(name, []))
        if said is None:
            return None
        new = self._set.get(name) != said and visit.touched
        if new or self._known.get(name) != said:
            self._keep(name, said)
        if visit.touched:
            self._count(name, self._own.get(name) or worst(visit.words) or said)
        return (visit.die, said) if new else None

    def break_off(self, verdict: str, reason: str) -> None:
        """Something broke off the work on a die: that is its verdict."""
        visit, self.visit = self.visit, None
        if visit is not None:
            self._keep(visit.die.name, word(verdict, reason=reason))

    def skip(self, die: str) -> None:
        """The die is on the skip list."""
        said = word("skipped", reason="skip list")
        if self._known.get(die) != said:
            self._keep(die, said)

    def check(self, folder: Any) -> None:
        """Stop the run if too many dies in a row did not pass.

        Raises
        ------
        TooManyFailuresError
            With their verdicts, the reasons, and the way on.
        """
        if not self._stop_after or len(self._bad) < self._stop_after:
            return
        dies = [name for name, _ in self._bad]
        self._record.event(self._run, "too_many_failures", f"{len(dies)} dies in a row did not pass", dies=dies)
        found = "; ".join(f"{name} {said.verdict} ({said.reason})" for name, said in self._bad)
        raise TooManyFailuresError(
            f"{len(dies)} dies in a row did not pass: {found}. Look at needles, overtravel and tester, then "
            f"xbar resume {folder} --stop-after 0; xbar run with --retest fail does failed dies again"
        )

    def _count(self, die: str, said: Word) -> None:
        self._bad = [] if said.verdict == "pass" else [*self._bad, (die, said)]

    def _keep(self, die: str, said: Word) -> None:
        self._record.set_verdict(self._run, die, said.verdict, bin=said.bin, reason=said.reason)
        self._set[die] = self._known[die] = said


def worst(words: list[Word]) -> Word | None:
    """The worst of what steps said, the first of equal ones; None if nothing was said."""
    return max(words, key=lambda said: OF_STEPS.index(said.verdict)) if words else None
