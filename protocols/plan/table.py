"""What a plan shows: counts, limits, times and sizes on one screen; what would not work last, where one looks."""

from __future__ import annotations

from collections.abc import Iterator

from quantiphy import Quantity
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.figures.table import duration
from protocols.plan.plan import Plan


def show_plan(console: Console, plan: Plan) -> None:
    """Print a plan; it fits 80 columns."""
    console.print(Text(f"plan of {plan.protocol}, {plan.dies} dies; nothing was moved or switched on", style="bold"))
    console.print(Text(f"station: {plan.source}"))
    if plan.steps:
        console.print(steps_table(plan))
        console.print(costs_table(plan))
    for text in plan.understood:
        console.print(Text.assemble(("read as  ", "cyan"), text))
    for text in plan.not_ours:
        console.print(Text.assemble(("held     ", "cyan"), text))
    for text in plan.warnings:
        console.print(Text.assemble(("note     ", "yellow"), text))
    for refusal in plan.refusals:
        where = f"{refusal.step} on {refusal.die}" if refusal.die else refusal.step
        console.print(Text.assemble(("refused  ", "bold red"), f"{where}: {refusal.message}"))
    if plan.possible:
        console.print(Text("nothing is against it", style="green"))
    else:
        console.print(Text("this run would not work as it is; nothing was done", style="bold red"))


def steps_table(plan: Plan) -> Table:
    """Steps by function."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    table.add_column("steps")
    table.add_column("in all", justify="right")
    table.add_column("per die", justify="right")
    for step in plan.steps:
        table.add_row(step.name, f"{step.count:,}", f"{step.count / max(1, plan.dies):.3g}")
    for name, count in plan.stand_ins.items():
        table.add_row(f"{name} (not done in a plan)", str(count), "")
    return table


def costs_table(plan: Plan) -> Table:
    """Costs and limits, a line each."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for row in _rows(plan):
        table.add_row(*row)
    return table


def _rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    costs, caps, extremes = plan.costs, plan.capabilities, plan.extremes
    pulses = f"{extremes.pulse_low:+.3g} to {extremes.pulse_high:+.3g} V"
    record, traffic = _si(plan.record_bytes, "B"), _si(plan.traffic_bytes, "B")
    yield "moves", f"{costs.moves:,}", ""
    yield "contacts", f"{costs.contacts:,}", ""
    yield "pulses to cells", f"{costs.pulses:,}", f"in {costs.pulse_requests:,} requests"
    yield "most on one cell", f"{plan.dose_max:,}", f"of {plan.dose_limit:,} allowed"
    yield "pulse voltage", pulses, f"of {caps.v_min:+.3g} to {caps.v_max:+.3g} V allowed"
    if plan.current_bound is not None:
        yield "pulse current", _si(plan.current_bound, "A"), "at most, into a short: the generator has no compliance"
    yield "read voltage", f"{extremes.read:.3g} V", f"of {caps.v_read_max:.3g} V allowed"
    yield "energy of one cell", _si(plan.energy_max, "J"), f"at most; {_si(costs.energy, 'J')} in all"
    yield "cells read", f"{costs.cells_read:,}", ""
    yield "kernel products", f"{costs.vectors:,}", ""
    yield "station time", duration(costs.station_time), "moves, pulses, conversions (assumed)"
    for name, seconds in plan.wire_times:
        yield "+ on the wire", duration(seconds), f"{name}, {_si(costs.board_bytes, 'B')}"
    yield "disk", _si(plan.record_bytes + plan.traffic_bytes, "B"), f"record {record}, traffic {traffic}"


def _si(value: float, unit: str) -> str:
    return Quantity(value, unit).render(prec=2)
