"""A run of any protocol in numbers, for ``--json``: how it ended, and what its steps say of each die."""

from __future__ import annotations

from typing import Any

from analysis.record.datasets import from_json
from analysis.record.record import COMPUTED, Record


def run_numbers(record: Record, run: int) -> dict[str, Any]:
    """Numbers of a run, ready for `json.dumps`.

    Returns
    -------
    dict
        ``run``, ``protocol``, ``status`` (finished, stopped, failed, aborted; running or paused while it goes on),
        ``started`` and ``ended`` (seconds since 1970), ``seed``, ``inputs`` of the protocol, ``verdicts`` by die, and
        ``steps``: by die ("" for the whole lot), the name and the attributes of each step that holds, in their order.
    """
    (known,) = (each for each in record.runs() if each["id"] == run)
    rows = [
        row
        for row in record.steps()
        if row.protocol == known["protocol"] and row.superseded_by is None and row.step.die != COMPUTED
    ]
    steps: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        steps.setdefault(row.step.die, []).append({"step": row.step.name, "attributes": from_json(row.attrs)})
    return {
        **{key: known[key] for key in ("protocol", "status", "started", "ended")},
        "run": run,
        "seed": known["provenance"].get("seed"),
        "inputs": known["provenance"].get("inputs", {}),
        "verdicts": {
            die: {"verdict": said.verdict, "bin": said.bin, "reason": said.reason}
            for die, said in record.verdicts().items()
        },
        "steps": steps,
    }
