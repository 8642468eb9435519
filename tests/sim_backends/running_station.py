"""A station in this process with a client at each of its wires, and lots with some entries changed."""

import socket
from contextlib import contextmanager

from board_wire import BoardWire

from sim_backends.array.dies.lot import lot_from_tree
from sim_backends.array.dies.passive_lot import passive_lot_from_tree
from sim_backends.station import Station, StationConfig


class ProberWire:
    """A line-by-line client of the prober."""

    def __init__(self, resource):
        _, host, port, _ = resource.split("::")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.lines = self.socket.makefile("r")

    def ask(self, line):
        self.socket.sendall(line.encode() + b"\n")
        number, job, text = self.lines.readline().rstrip("\n").split(",", 2)
        return int(number), int(job), text

    def close(self):
        self.lines.close()
        self.socket.close()


@contextmanager
def running(**config):
    """A station in this process, with a board client and a prober client."""
    with Station(StationConfig(**{"seed": 7, "dies": 3, **config})) as station:
        addresses = station.addresses()
        board, prober = BoardWire(addresses["board"]), ProberWire(addresses["prober"])
        try:
            yield station, board, prober
        finally:
            board.close()
            prober.close()


def varied(lot, **changes):
    """A lot with some entries changed, by section; `switching` is a section of devices."""
    tree = lot.model_dump()
    for section, values in changes.items():
        (tree["devices"] if section == "switching" else tree)[section].update(values)
    return lot_from_tree(tree, "test")


def varied_tio2(lot, **changes):
    """A lot of passive dies with some entries changed, by section."""
    tree = lot.model_dump()
    for section, values in changes.items():
        tree[section].update(values)
    return passive_lot_from_tree(tree, "test")
