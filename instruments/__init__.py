"""Drivers: real instruments spoken to over VISA sockets, serial ports and TCP."""
