"""The instruments of a simulated rack, wired to the needles of a bench: what a station serves in place of a board."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from sim_backends.array.files.quantity import Integer, Specification
from sim_backends.bench.bench import Bench
from sim_backends.virtual.keithley_707 import Keithley707
from sim_backends.virtual.keithley_2600 import Keithley2602, SmuSpec
from sim_backends.virtual.keysight_33500 import Keysight33500, PulserSpec
from sim_backends.virtual.rack_wiring import RackSpec, RackWiring
from sim_backends.wire.faulty_wire import Dialect

INSTRUMENTS = ("smu", "pulser", "matrix")
"""Names of the instruments, in station files and faults."""


class RackStationSpec(Specification):
    """Section ``rack`` of a station file: the instruments, their ports, and what is plugged in where."""

    wiring: RackSpec = RackSpec()
    smu: SmuSpec = SmuSpec()
    pulser: PulserSpec = PulserSpec()
    smu_port: Integer = Field(default=0, ge=0, le=65535)
    pulser_port: Integer = Field(default=0, ge=0, le=65535)
    matrix_port: Integer = Field(default=0, ge=0, le=65535)


@dataclass(frozen=True)
class RackInstrument:
    """One instrument of the rack: its name, its side of the wire, and where it listens."""

    name: str
    service: Dialect
    port: int


def rack_instruments(bench: Bench, spec: RackStationSpec) -> list[RackInstrument]:
    """Wire a source measure unit, a pulse generator and a matrix to the needles of a bench.

    Raises
    ------
    ValueError
        The dies have gates, which a rack does not drive, or more lines than the matrix has columns.
    """
    topology = bench.lot.topology
    if not bench.lot.schemes or topology.kernels != 1:
        raise ValueError(
            f"rack: the dies of lot {bench.lot.name} have gates; a rack drives passive arrays, as tio2-8x8"
        )
    wiring = RackWiring(bench, spec.wiring.for_die(topology.rows, topology.columns))
    return [
        RackInstrument("smu", Keithley2602(wiring, spec.smu), spec.smu_port),
        RackInstrument("pulser", Keysight33500(wiring, spec.pulser), spec.pulser_port),
        RackInstrument("matrix", Keithley707(wiring), spec.matrix_port),
    ]
