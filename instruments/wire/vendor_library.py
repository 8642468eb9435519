"""Instruments that only their maker's Python package can drive: their calls as messages, like everybody else's bytes.

A call and its result are JSON (arrays as NPY inside), so that they can be sent to the process that holds the
instrument, logged, and replayed. Nothing is pickled.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from instruments.roles.interfaces import InstrumentError
from instruments.wire.waiting import SLICE, Abandonable

OPEN_LIMIT = 120.0
"""Seconds allowed for making the object that drives an instrument."""

_CLOSE_LIMIT = 5.0
_T = TypeVar("_T")


def pack_call(method: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> bytes:
    """A call as a message.

    Raises
    ------
    TypeError
        An argument is none of None, bool, number, text, bytes, array, list or dict with text as keys.
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


class LibraryTransport(Abandonable):
    """Holds an object of a vendor's package and calls its methods; fills `instruments.wire.transports.Transport`.

    All calls of one object, its making and its closing too, come one after another from one thread: many libraries
    insist on that. A call that does not return in time goes on, and calls that were sent after it wait for it; `open`
    makes another object, in another thread.

    Parameters
    ----------
    address
        What makes the object, as ``package.module:callable``.
    arguments
        Keyword arguments for it.
    """

    def __init__(self, address: str, *, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self._address, self._arguments = address, dict(arguments)
        self._caller: _Caller | None = None
        self._answers: deque[Future[bytes]] = deque()

    def open(self) -> None:
        """Make the object anew."""
        self.close()
        self._abandoned = None
        caller = _Caller(self._make, self._address)
        try:
            self._wait(caller.made, time.monotonic() + OPEN_LIMIT)
        except BaseException:
            caller.end()
            raise
        self._caller = caller

    def close(self) -> None:
        """Let go of the object; closes it, if it has a `close`, when the call that it is busy with has returned."""
        caller, self._caller = self._caller, None
        self._answers.clear()
        if caller is not None:
            caller.end()

    def send(self, data: bytes) -> None:
        """Begin a call; its answer waits for `receive`."""
        if self._caller is None:
            raise ConnectionError("the connection is closed")
        self._answers.append(self._caller.call(data))

    def interrupt(self, data: bytes) -> None:
        """Refuse: a call waits until the one before it has returned."""
        raise ConnectionError("calls of a library take their turn; none can be made out of it")

    def receive(self, terminator: bytes, timeout: float) -> bytes:
        """The answer to the oldest call that was sent; one that is late is never taken for another's."""
        if not self._answers:
            raise TimeoutError("nothing was called")
        return self._wait(self._answers.popleft(), time.monotonic() + timeout)

    def query(self, data: bytes, terminator: bytes, timeout: float) -> bytes:
        """Do a call within `timeout` (s)."""
        self.send(data)
        return self.receive(terminator, timeout)

    def _make(self) -> Any:
        module, _, factory = self._address.partition(":")
        try:
            found = getattr(importlib.import_module(module), factory)
        except ModuleNotFoundError as error:
            raise ConnectionError(
                f"the Python package {error.name} is not installed for {sys.executable}; install what came with the "
                "instrument, or correct the address in the station file"
            ) from error
        except AttributeError as error:
            raise ConnectionError(f"{error}; a library's address is package.module:callable") from error
        return found(**self._arguments)

    def _wait(self, answer: Future[_T], deadline: float) -> _T:
        while True:
            try:
                return answer.result(min(SLICE, self._left(deadline)))
            except TimeoutError:
                if answer.done():  # its own: the factory raised it
                    raise


class _Caller:
    """A daemon thread that makes an object and calls it; at the end it closes it."""

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        self.made: Future[None] = Future()
        self._due: SimpleQueue[tuple[bytes, Future[bytes]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(make,), name=name, daemon=True)
        self._thread.start()

    def call(self, data: bytes) -> Future[bytes]:
        """Have a call made; its answer comes."""
        answer: Future[bytes] = Future()
        self._due.put((data, answer))
        return answer

    def end(self) -> None:
        """Have the object closed, and wait for that a little."""
        self._due.put(None)
        self._thread.join(_CLOSE_LIMIT if self._due.empty() else SLICE)

    def _run(self, make: Callable[[], Any]) -> None:
        try:
            driven = make()
        except BaseException as error:
            self.made.set_exception(error)
            return
        self.made.set_result(None)
        while (due := self._due.get()) is not None:
            data, answer = due
            answer.set_result(_answer(driven, data))
        with contextlib.suppress(Exception):
            getattr(driven, "close", lambda: None)()


def _answer(driven: Any, data: bytes) -> bytes:
    """Make a call; what it returned or raised."""
    try:
        call = json.loads(data)
        result = getattr(driven, call["method"])(*_rich(call["arguments"]), **_rich(call["named"]))
        return json.dumps({"result": _plain(result)}).encode()
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()


def _plain(value: Any) -> Any:
    """A value as JSON; arrays and bytes are marked."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {"__array__": base64.b64encode(file.getvalue()).decode()}
    if isinstance(value, bytes):
        return {"__bytes__": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a dict whose keys are not all text cannot be carried to or from a vendor's library")
        return {"__dict__": {key: _plain(each) for key, each in value.items()}}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    raise TypeError(
        f"{type(value).__name__} cannot be carried to or from a vendor's library; numbers, text and arrays can"
    )


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
