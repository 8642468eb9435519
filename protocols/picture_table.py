"""What `xbar run grey-picture` prints and writes when it is done."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.picture_results import PictureResults, numbers


def show_picture(console: Console, results: PictureResults, out: Path, json_path: Path | None) -> None:
    """Print the table, write `report.html` into the lot folder and the JSON file."""
    from analysis.picture_report import write_picture_report

    report = write_picture_report(results, out / "report.html")
    print_picture(console, results)
    if json_path is not None:
        json_path.write_text(json.dumps(numbers(results), indent=2) + "\n", encoding="utf-8")
    console.print(f"report: {report.resolve()}", soft_wrap=True, highlight=False)


def print_picture(console: Console, results: PictureResults) -> None:
    """Print how each die came out."""
    from analysis.picture_report import die_row, headline

    found = numbers(results)
    table = Table("die", "work", "mean error", "worst", "all cells", "in band", "gave up", "passes",
                  "pulses")  # fmt: skip
    for die, each in found["dies"].items():
        table.add_row(die, *die_row(each))
    console.print(table)
    for die, why in found["not_written"].items():
        console.print(f"{die} was not written: {why}", soft_wrap=True, highlight=False)
    for sentence in headline(found):
        console.print(sentence, soft_wrap=True, highlight=False)
