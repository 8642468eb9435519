"""A lot of passive dies that take fewer pulses to write: half of those of a ramp move nothing in the built-in lot."""

from pathlib import Path

import yaml

from sim_backends.array.dies.lot import BUILT_IN

#: So many times as fast as its devices, whose ramps then reach what moves them sooner. Everything else is the same.
FASTER = 5


def fast_lot(file: Path) -> Path:
    """Write the built-in lot with other rates as a lot file."""
    lot = yaml.safe_load((BUILT_IN / "tio2-8x8.yaml").read_text(encoding="utf-8"))
    for name in ("rate_set", "rate_reset"):
        lot["devices"][name] = {"value": FASTER * float(lot["devices"][name]["value"]), "source": "assumed"}
    file.write_text(yaml.safe_dump(lot), encoding="utf-8")
    return file
