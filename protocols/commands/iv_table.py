"""What `xbar run iv-sweep` prints when it is done."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from analysis.results.iv_sweep import IVResults, numbers

#: Loops that are printed; the report has all.
PRINTED = 40


def print_iv(console: Console, results: IVResults) -> None:
    """Print what each loop tells."""
    from analysis.reports.iv_sweep import headline, loop_row

    found = numbers(results)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("die", "cell", "V SET", "uS", "mA max", "V RESET", "uS", "mA max", "moved"):
        table.add_column(name, no_wrap=True)
    rows = [(die, cell, *loop_row(loop)) for die, loops in found["dies"].items() for cell, loop in loops.items()]
    for row in rows[:PRINTED]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > PRINTED:
        console.print(f"and {len(rows) - PRINTED} more in the report")
    for sentence in headline(found):
        console.print(sentence)
