"""Which dies a run works on: some of the route, some not, some again; and after how many bad ones it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from analysis.record.record import VERDICTS, Verdict
from instruments.roles.interfaces import DieSite
from protocols.bench.bench import Die


class SelectionError(ValueError):
    """A die, verdict or bin that was asked for does not exist; the message says which do."""


@dataclass(frozen=True)
class RunSettings:
    """What is the same for every protocol: the seed, which dies, and when the run stops by itself.

    Parameters
    ----------
    dies : int, optional
        How many dies of the route; None: all.
    only, skip : tuple of str
        Names of the dies that are worked on (none: all), and of those that are not.
    retest_verdicts : tuple of str
    retest_bins : tuple of int
        The dies with one of these verdicts or bins are done anew.
    stop_after : int
        So many dies in a row that do not pass stop the run; 0: never.
    golden : str, optional
        The die that tells whether needles and tester still measure the same; it is not worked on otherwise.
    golden_every : int
        It is looked at before the first die and before every so many-th one after.
    """

    seed: int = 0
    dies: int | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    retest_verdicts: tuple[str, ...] = ()
    retest_bins: tuple[int, ...] = ()
    stop_after: int = 3
    golden: str | None = None
    golden_every: int = 5

    def __post_init__(self) -> None:
        unknown = [verdict for verdict in self.retest_verdicts if verdict not in VERDICTS]
        if unknown:
            raise SelectionError(f"--retest {unknown[0]}: a verdict is one of {', '.join(VERDICTS)}")

    @property
    def retests(self) -> list[Any]:
        """What is asked to be done anew, as the record keeps it; empty if nothing is."""
        asked = [list(self.retest_verdicts), list(self.retest_bins)]
        return asked if any(asked) else []

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON has them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSettings:
        """Inverse of `to_dict`; a setting that an older record does not have is the default."""
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known
        }
        return cls(**given)


def of_options(
    seed: int,
    dies: int | None,
    only: str | None,
    skip: str | None,
    retest: str | None,
    retest_bin: str | None,
    stop_after: int,
    golden: str | None,
    golden_every: int,
) -> RunSettings:
    """Settings from the words of the command line.

    Raises
    ------
    SelectionError
        For an unknown verdict, or a bin that is no number.
    """
    again = names(retest), bins(retest_bin)
    return RunSettings(seed, dies, names(only), names(skip), *again, stop_after, golden, golden_every)


def names(text: str | None) -> tuple[str, ...]:
    """``"c3r4, c5r5"`` as names."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def bins(text: str | None) -> tuple[int, ...]:
    """``"2,7"`` as bin numbers.

    Raises
    ------
    SelectionError
        For anything but whole numbers.
    """
    try:
        return tuple(int(word) for word in names(text))
    except ValueError:
        raise SelectionError(f"--retest-bin {text}: bins are whole numbers, such as 2 or 2,7") from None


def chosen(settings: RunSettings, route: Sequence[DieSite]) -> list[Die]:
    """The dies of a run, in route order; `index` is their place on the whole route.

    Raises
    ------
    SelectionError
        If a die that was named is not there, or none is left.
    """
    places = [Die(str(site), site, index) for index, site in enumerate(route)]
    first = places[: settings.dies]
    _check_names("--only", settings.only, first)
    _check_names("--skip", settings.skip, places)
    _check_names("--golden", (settings.golden,) if settings.golden else (), places)
    left_out = {*settings.skip, settings.golden}
    dies = [die for die in first if die.name not in left_out and (not settings.only or die.name in settings.only)]
    if not dies:
        raise SelectionError("no die is left to work on; look at --only, --skip, --golden and --dies")
    return dies


def golden_die(settings: RunSettings, route: Sequence[DieSite]) -> Die | None:
    """The golden die, if there is one."""
    places = [Die(str(site), site, index) for index, site in enumerate(route)]
    return next((die for die in places if die.name == settings.golden), None)


def to_retest(settings: RunSettings, dies: Sequence[Die], verdicts: Mapping[str, Verdict]) -> list[str]:
    """Names of the dies of a run that are to be done anew by their verdicts so far.

    Raises
    ------
    SelectionError
        If no die has a verdict or bin that was asked for.
    """
    by_verdict, by_bin = Counter(v.verdict for v in verdicts.values()), Counter(v.bin for v in verdicts.values())
    for verdict in settings.retest_verdicts:
        if verdict not in by_verdict:
            there = ", ".join(f"{name} ({_dies(count)})" for name, count in sorted(by_verdict.items()))
            raise SelectionError(f"--retest: no die has verdict {verdict}; there are {there or 'no verdicts yet'}")
    words = {v.bin: v.verdict for v in verdicts.values()}
    for number in settings.retest_bins:
        if number not in by_bin:
            there = ", ".join(f"{n} ({words[n]}, {_dies(count)})" for n, count in sorted(by_bin.items()))
            raise SelectionError(f"--retest-bin: no die has bin {number}; there are {there or 'no bins yet'}")
    again = {
        name for name, v in verdicts.items() if v.verdict in settings.retest_verdicts or v.bin in settings.retest_bins
    }
    return [die.name for die in dies if die.name in again]


def _dies(count: int) -> str:
    return f"{count} die{'s' if count != 1 else ''}"


def _check_names(option: str, wanted: Sequence[str], places: Sequence[Die]) -> None:
    there = [die.name for die in places]
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise SelectionError(f"{option} {unknown[0]}: no such die; the run has {_dies(len(there))}: {', '.join(there)}")
