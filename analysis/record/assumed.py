"""What a page says is assumed of the station: that depends on which one it was."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from analysis.record.own_files import of_simulated_station
from analysis.record.record import Record

#: How the protocols said it before the station was asked; kept in records of that time.
_BEFORE = re.compile(r".*of a simulated lot \(its lot file says so value by value\)")


def assumed(record: Record, run: dict[str, Any], of_protocol: Iterable[str]) -> tuple[str, ...]:
    """What is taken for granted in the results of a run: of its station first, then what its protocol does."""
    return (of_station(record, run), *(text for text in of_protocol if not _BEFORE.fullmatch(text)))


def of_station(record: Record, run: dict[str, Any]) -> str:
    """What is taken for granted of the station of a run."""
    provenance = run["provenance"]
    if provenance.get("station_file") is None and provenance.get("lot"):
        return (
            f"device values, defect rates, lines and voltages: those of the simulated lot {provenance['lot']} (its lot "
            "file says so value by value)"
        )
    texts = [event["data"].get("station", "") for event in record.events("station") if event["run"] <= run["id"]]
    if texts and _simulated(str(texts[-1])):
        return (
            "device values, defect rates, lines and voltages: those of the lot that the simulated station serves (its "
            "lot file says so value by value)"
        )
    return (
        "nothing of the dies: they were measured at a bench. Of the instruments, that their calibrations hold and that "
        "limits and ranges are as they say"
    )


def _simulated(station: str) -> bool:
    """Whether a station file is one that this program serves: by its seal, or since its station keeps its own clock."""
    if of_simulated_station(station):
        return True
    try:
        return "clock" in yaml.safe_load(station)["instruments"]
    except (yaml.YAMLError, TypeError, KeyError, RecursionError, ValueError):
        return False
