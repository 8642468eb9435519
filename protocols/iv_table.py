"""What `xbar run iv-sweep` prints and writes when it is done."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.iv_results import IVResults, numbers

#: Loops that are printed; the report has all.
PRINTED = 40


def show_iv(console: Console, results: IVResults, out: Path, json_path: Path | None) -> None:
    """Print the table, write `report.html` into the lot folder and the JSON file."""
    from analysis.iv_report import write_iv_report

    report = write_iv_report(results, out / "report.html")
    print_iv(console, results)
    if json_path is not None:
        json_path.write_text(json.dumps(numbers(results), indent=2) + "\n", encoding="utf-8")
    console.print(f"report: {report.resolve()}", soft_wrap=True, highlight=False)


def print_iv(console: Console, results: IVResults) -> None:
    """Print what each loop tells."""
    from analysis.iv_report import headline, loop_row

    found = numbers(results)
    table = Table("die", "cell", "V SET", "uS", "mA max", "V RESET", "uS", "mA max", "moved")
    rows = [(die, cell, *loop_row(loop)) for die, loops in found["dies"].items() for cell, loop in loops.items()]
    for row in rows[:PRINTED]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > PRINTED:
        console.print(f"and {len(rows) - PRINTED} more in the report", highlight=False)
    for sentence in headline(found):
        console.print(sentence, soft_wrap=True, highlight=False)
