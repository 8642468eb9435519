"""What a maker's Python package may be: an object with a state, that insists on one thread and sometimes raises."""

import threading
import time

import numpy as np


class Meter:
    """Adds up what it is given."""

    made = 0

    def __init__(self, gain=1.0, missing=False):
        if missing:
            raise OSError("no meter on the bus")
        Meter.made += 1
        self.gain, self.total = gain, 0.0
        self._thread = threading.get_ident()

    def add(self, values, *, twice=False):
        assert threading.get_ident() == self._thread, "called from another thread than the one that made it"
        values = np.asarray(values)
        self.total += float(values.sum()) * (2 if twice else 1)
        return {"scaled": self.gain * values, "total": self.total, "raw": values.tobytes(), "shape": values.shape}

    def fail(self, text):
        raise ValueError(text)

    def late(self, seconds, answer):
        time.sleep(seconds)
        return answer

    def nothing(self):
        return None

    def unsendable(self):
        return object()

    def not_a_method_of_numbers(self):
        return np.complex128(1j)
