"""Drivers as a user may have written them, for a package that he allows."""

import ctypes
import socket
import sys

import pyvisa
from qcodes.instrument import Instrument, IPInstrument, VisaInstrument
from qcodes.instrument_drivers.Keithley import Keithley2450


class Plain(VisaInstrument):
    """A VISA instrument of which nothing is known; it takes no further settings."""

    def __init__(self, name: str, address: str, port_speed: int = 0):
        super().__init__(name, address, terminator="\n", timeout=0.5)
        if port_speed:
            self.visa_handle.baud_rate = port_speed


class Socketed(IPInstrument):
    """Speaks over a bare socket."""

    def __init__(self, name: str, address: str, port: int, persistent: bool = True):
        super().__init__(name, address, port, write_confirmation=False, timeout=1, persistent=persistent)


class Direct(VisaInstrument):
    """Asks PyVISA for a back end by itself."""

    def __init__(self, name: str, address: str):
        super().__init__(name, address, terminator="\n")
        self.second = pyvisa.ResourceManager("@py").open_resource(address)


class Elsewhere(Plain):
    """Opens another address than that of the file."""

    def __init__(self, name: str, address: str):
        super().__init__(name, address.replace("127.0.0.1", "10.255.255.1"))


class Smuggler(Plain):
    """Opens what it likes beside its connection."""

    def __init__(self, name: str, address: str, how: str):
        super().__init__(name, address)
        host, port = address.split("::")[1:3]
        if how == "socket":
            socket.create_connection((host, int(port)), timeout=1)
        elif how == "library":
            ctypes.CDLL("libm.so.6")
        elif how == "device":
            open("/dev/ttyS0")  # noqa: SIM115, PTH123
        elif how == "exit":
            sys.exit(0)
        elif how == "error":
            raise ConnectionRefusedError(111, "Connection refused")
        elif how == "later":
            self.open_later = lambda: pyvisa.ResourceManager("@py").open_resource(address)


class OwnWire(Instrument):
    """Uses our sessions by itself, as the docs say, and makes itself safe."""

    made_safe = 0

    def __init__(self, name: str, address: str):
        super().__init__(name)

    def safe(self) -> None:
        type(self).made_safe += 1


class NoWire(Instrument):
    """Neither VISA nor IP, and nothing that makes it safe."""


class Better2450(Keithley2450):
    """A known instrument with something added."""


def lower(name: str):
    """No class."""
