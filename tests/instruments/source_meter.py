"""A source meter on a socket, for drivers of others: enough for QCoDeS's and PyMeasure's Keithley 2450."""

import threading

from scripted_peers import Peer


class ScriptedSourceMeter(Peer):
    """`lines` is what came, `on` whether its output is."""

    end = b"\n"

    def __init__(self):
        self.lines, self.on, self.stuck, self.silent = [], False, False, set()
        self._guard = threading.Lock()
        super().__init__()

    @property
    def address(self):
        return f"TCPIP::127.0.0.1::{self.port}::SOCKET"

    def message(self, connection, data):
        line = data.decode().strip()
        self.lines.append(line)
        short = line.upper().replace("OUTPUT", "OUTP").replace(":STATE", "").lstrip(":")
        if short.startswith("OUTP ") and not self.stuck:
            self.on = short.split()[-1] in ("ON", "1")
        answer = {
            "*IDN?": "KEITHLEY INSTRUMENTS,MODEL 2450,04000001,1.7.0", "*LANG?": "SCPI", "SOUR:FUNC?": "VOLT",
            "SENS:FUNC?": '"CURR:DC"', "OUTP?": str(int(self.on)),
        }.get(short, "1" if line.endswith("?") else None)  # fmt: skip
        if answer is not None and short not in self.silent:
            connection.sendall(answer.encode() + b"\n")
        return False
