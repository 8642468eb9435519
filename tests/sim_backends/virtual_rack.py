"""A rack without sockets around one passive die, for tests: lines go straight to the instruments."""

import json
from contextlib import ExitStack, contextmanager

from sim_backends.array.dies.kinds import load_any_lot
from sim_backends.bench.bench import Bench
from sim_backends.bench.clock import StationClock
from sim_backends.bench.physical_log import PhysicalLog
from sim_backends.virtual.rack import RackStationSpec, rack_instruments
from sim_backends.wire.tcp import InstrumentServer

HEALTHY = 3  # seed of a lot whose first die has no defect
OTHERS = ",".join([*(f"1{{row}}{at:02d}" for at in range(2, 9)), *(f"2{{row}}{at:02d}" for at in range(2, 9))])


class VirtualRack:
    """Instruments `smu`, `pulser`, `matrix` around a die that the needles touch."""

    def __init__(self, folder, *, seed=HEALTHY, touch=True, **spec):
        self.clock = StationClock()
        self.log = PhysicalLog(folder / "physical.jsonl", self.clock)
        self.bench = Bench(load_any_lot("tio2-8x8"), seed, self.clock, self.log)
        self.bench.move_to(0)
        if touch:
            self.bench.touch()
        self.instruments = {
            each.name: each.service for each in rack_instruments(self.bench, RackStationSpec.model_validate(spec))
        }
        self.wiring = self.instruments["matrix"]._wiring

    @property
    def die(self):
        return self.bench.die(0)

    def send(self, name, line):
        return self.instruments[name].receive(line.encode() + b"\n").decode().rstrip("\n")

    def smu(self, line):
        return self.send("smu", line)

    def pulser(self, line):
        return self.send("pulser", line)

    def matrix(self, line):
        return self.send("matrix", line)

    def connect(self, relays, others=None):
        """Close relays; all lines but the first row and column on a matrix row `others`."""
        rest = "" if others is None else "," + OTHERS.format(row=others)
        self.matrix(f'channel.exclusiveclose("{relays}{rest}")')

    def entries(self, what):
        self.log.flush()
        lines = [json.loads(line) for line in self.log.path.read_text().splitlines()]
        return [each for each in lines if each["what"] == what]

    @contextmanager
    def served(self):
        """Addresses (VISA) of the instruments on real sockets, by name."""
        with ExitStack() as stack:
            addresses = {}
            for name, service in self.instruments.items():
                server = InstrumentServer(service, "127.0.0.1", 0, name)
                server.start()
                stack.callback(server.stop)
                addresses[name] = "TCPIP::{}::{}::SOCKET".format(*server.address)
            yield addresses
