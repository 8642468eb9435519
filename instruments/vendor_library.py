"""Instruments that only their maker's Python package can drive: their calls as messages, like everybody else's bytes.

A call and its result are JSON (arrays as NPY inside), so that they can be sent to the process that holds the
instrument, logged, and replayed. Nothing is pickled.
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instruments.roles import InstrumentError


def pack_call(method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> bytes:
    """A call as a message.

    Raises
    ------
    TypeError
        An argument is none of None, bool, number, text, bytes, array, list or dict.
    """
    return json.dumps({"method": method, "arguments": _plain(list(arguments)), "named": _plain(dict(named))}).encode()


def unpack_result(message: bytes, what: str) -> Any:
    """What a call returned.

    Raises
    ------
    InstrumentError
        It raised; `what` begins the message.
    """
    answer = json.loads(message)
    if "error" in answer:
        raise InstrumentError(f"{what}: {answer['error']}")
    return _rich(answer["result"])


class LibraryTransport:
    """Holds an object of a vendor's package and calls its methods; fills `instruments.transports.Transport`.

    Parameters
    ----------
    address
        What makes the object, as ``package.module:callable``.
    arguments
        Keyword arguments for it.
    """

    def __init__(self, address: str, *, arguments: Mapping[str, Any]) -> None:
        self._address, self._arguments = address, dict(arguments)
        self._driven: Any = None
        self._answers: list[bytes] = []

    def open(self) -> None:
        """Make the object anew."""
        self.close()
        self._answers.clear()
        module, _, factory = self._address.partition(":")
        self._driven = getattr(importlib.import_module(module), factory)(**self._arguments)

    def close(self) -> None:
        """Let go of the object; closes it if it has a `close`."""
        driven, self._driven = self._driven, None
        if driven is not None and callable(getattr(driven, "close", None)):
            driven.close()

    def send(self, data: bytes) -> None:
        """Do a call; its answer waits for `receive`."""
        self._answers.append(self._answer(data))

    interrupt = send

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The answer to the oldest call that was sent."""
        if not self._answers:
            raise TimeoutError("nothing was called")
        return self._answers.pop(0)

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """Do a call within `timeout` (s).

        Raises
        ------
        TimeoutError
            It has not returned; it goes on, and its object is not to be trusted any more.
        """
        answer: list[bytes] = []
        call = threading.Thread(target=lambda: answer.append(self._answer(data)), daemon=True)
        call.start()
        call.join(timeout)
        if not answer:
            raise TimeoutError("the call has not returned in time")
        return answer[0]

    def abandon(self, reason: str) -> None:
        """Calls of a library cannot be broken off."""

    def _answer(self, data: bytes) -> bytes:
        call = json.loads(data)
        if self._driven is None:
            raise ConnectionError("the connection is closed")
        try:
            result = getattr(self._driven, call["method"])(*_rich(call["arguments"]), **_rich(call["named"]))
            return json.dumps({"result": _plain(result)}).encode()
        except Exception as error:
            return json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()


def _plain(value: Any) -> Any:
    """A value as JSON; arrays and bytes are marked."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__array__": base64.b64encode(file.getvalue()).decode()}
    if isinstance(value, bytes):
        return {"__bytes__": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"__dict__": {str(key): _plain(each) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} cannot be sent to a vendor's library; pass numbers, text or arrays")


def _rich(value: Any) -> Any:
    """Inverse of `_plain`; tuples come back as lists."""
    if isinstance(value, list):
        return [_rich(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "__array__" in value:
        return np.load(io.BytesIO(base64.b64decode(value["__array__"])), allow_pickle=False)
    if "__bytes__" in value:
        return base64.b64decode(value["__bytes__"])
    return {key: _rich(each) for key, each in value.get("__dict__", value).items()}
