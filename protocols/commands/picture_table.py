"""What `xbar run grey-picture` prints when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from analysis.results.grey_picture import PictureResults, numbers


def print_picture(console: Console, results: PictureResults) -> None:
    """Print how each die came out."""
    from analysis.reports.grey_picture import die_row, headline

    found = numbers(results)
    table = Table("die", "work", "mean error", "worst", "all cells", "in band", "gave up", "passes",
                  "pulses")  # fmt: skip
    for die, each in found["dies"].items():
        table.add_row(die, *die_row(each))
    console.print(table)
    for die, why in found["not_written"].items():
        console.print(f"{die} was not written: {why}")
    for sentence in headline(found):
        console.print(sentence)
