"""The wafer map of a prober: which dies there are, the route over them, and their bins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Site = tuple[int, int]  # column, row; columns grow to the right, rows upwards

START_POINTS = ("ul", "ur", "ll", "lr")
PRIORITIES = ("r", "c", "wr", "wc")
BINS = 256
"""Bins have numbers below that."""


class WaferMap:
    """Dies, route and bins.

    Parameters
    ----------
    sites
        Sites of all dies that are present.
    selected
        Sites on the route at first.
    """

    def __init__(self, sites: Sequence[Site], selected: Iterable[Site]) -> None:
        self.present: set[Site] = set(sites)
        self.selected: set[Site] = set(selected)
        self.start_point, self.priority = "ul", "wr"
        self.home: Site = sites[0]
        self.bins: dict[Site, int] = {}
        self.values: dict[Site, float] = {}
        self.bin_info: dict[int, tuple[str, str, str]] = {
            0: ("Unbinned", "Undefined", "#FF808080"),
            1: ("Pass", "Pass", "#FF00FF00"),
            2: ("Fail", "Fail", "#FFFF0000"),
        }
        self.route: list[Site] = []
        self.plan_route()

    def plan_route(self, sites: Iterable[Site] | None = None) -> None:
        """Order the selected dies (or the given ones) by start point and priority.

        "r" goes along rows, always in one direction, "wr" back and forth; "c" and "wc" the same along columns.
        """
        chosen = self.selected if sites is None else set(sites)
        along_rows = self.priority.endswith("r")
        serpentine = self.priority.startswith("w")
        left_first, top_first = self.start_point.endswith("l"), self.start_point.startswith("u")
        major_down = top_first if along_rows else not left_first
        minor_down = (not left_first) if along_rows else top_first
        lines: dict[int, list[Site]] = {}
        for site in chosen:
            lines.setdefault(site[1] if along_rows else site[0], []).append(site)
        self.route = []
        for number, key in enumerate(sorted(lines, reverse=major_down)):
            backwards = minor_down ^ (serpentine and number % 2 == 1)
            minor = 0 if along_rows else 1
            self.route += sorted(lines[key], key=lambda site: site[minor], reverse=backwards)

    def sequence_number(self, site: Site | None) -> int:
        """Place of a die on the route, -1 if it is not on it."""
        return self.route.index(site) if site in self.route else -1

    def status(self, site: Site) -> int:
        """1 selected, 2 not selected, 3 absent."""
        if site not in self.present:
            return 3
        return 1 if site in self.selected else 2

    def sites_with_bins(self, text: str) -> list[Site]:
        """Dies with bins such as ``"2,5-9"``, or of a quality: ``pass``, ``fail``, ``undefined``, ``unbinned``.

        Raises
        ------
        ValueError
            If the text is neither, or there is no such bin.
        """
        word = text.strip().lower()
        if word == "unbinned":
            return [site for site in self.present if site not in self.bins]
        if word in ("pass", "fail", "undefined"):
            numbers = {number for number, info in self.bin_info.items() if info[1].lower() == word}
        else:
            numbers = set()
            for part in word.split(","):
                low, _, high = part.strip().partition("-")
                numbers |= set(range(_bin(low), _bin(high or low) + 1))
        return [site for site, number in self.bins.items() if number in numbers]


def _bin(text: str) -> int:
    if not re.fullmatch(r"\s*\d{1,9}\s*", text, re.ASCII) or int(text) >= BINS:
        raise ValueError(f"{text!r} is no bin; these are 0 to {BINS - 1}")
    return int(text)
