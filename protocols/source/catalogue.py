"""Which protocols there are: the ones that ship, by name, and the user's own, as ``script.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import SOURCE_SUFFIXES, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

#: Name on the command line, and where the protocol is.
SHIPPED = {
    "mtj-mnist": "protocols.shipped.mtj_mnist:mtj_mnist",
    "program": "protocols.shipped.program:program_lot",
    "tio2-moons": "protocols.shipped.tio2_moons:tio2_moons",
    "grey-picture": "protocols.shipped.grey_picture:grey_picture",
    "iv-sweep": "protocols.shipped.iv_sweep:iv_sweep",
    "forming": "protocols.shipped.forming:form_lot",
}

#: Those whose results `xbar report` shows on a page (`protocols.commands.show.KINDS`); a test holds the two together.
REPORTED = ("mtj-mnist", "tio2-moons", "grey-picture", "iv-sweep")

#: Lot of the simulated station of a protocol, where it is not `LOT`.
LOTS = {
    "tio2-moons": "tio2-8x8@rack",
    "grey-picture": "tio2-64x64",
    "iv-sweep": "tio2-8x8@rack",
    "forming": "tio2-8x8@rack",
}
LOT = "mtj"


class ProtocolNotFoundError(ValueError):
    """There is no such protocol; the message says what there is."""


def find(name: str) -> Callable[..., Any]:
    """The protocol of that name, or the function of a script given as ``path/to/script.py:function``.

    Raises
    ------
    ProtocolNotFoundError
        If there is none, or the function is not marked with ``@protocol``.
    """
    if not isinstance(name, str):  # of a record
        raise ProtocolNotFoundError(f"{name!r} is no protocol")
    if name in SHIPPED:
        module, function = SHIPPED[name].split(":")
        return getattr(importlib.import_module(module), function)
    path, _, function = name.rpartition(":")
    if not path:
        raise ProtocolNotFoundError(
            f"no protocol {name!r}; there are {', '.join(SHIPPED)}, or your own as my_script.py:my_protocol"
        )
    found = getattr(_load(Path(path)), function, None)
    if found is None:
        raise ProtocolNotFoundError(f"{path} has no function {function!r}; give one that has @protocol above it")
    if not hasattr(found, "__is_protocol__"):
        raise ProtocolNotFoundError(
            f"{function} in {path} is not a protocol: put @protocol (protocols.sequencer.run) above it"
        )
    return found


def lot_of(name: str) -> str:
    """The lot that a protocol's simulated station has by default."""
    return LOTS.get(name, LOT)


def name_in_record(name: str) -> str:
    """Name of a protocol in the record: that of a script without its folder, so that it is the same from anywhere."""
    path, _, function = name.rpartition(":")
    return f"{Path(path).name}:{function}" if path else name


class _FromSource(SourceFileLoader):
    """Loads what stands in a file now: byte code kept of it passes for it as long as size and second are the same."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the file."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _load(path: Path) -> Any:
    from protocols.source import source_code

    if not path.is_file():
        raise ProtocolNotFoundError(f"no file {path}; give a protocol as my_script.py:my_protocol")
    name = path.name  # with its suffix: a script called like a module that is in use must not take its place
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if path.suffix not in SOURCE_SUFFIXES or spec is None or spec.loader is None:
        raise ProtocolNotFoundError(f"{path} is not a Python file; give a protocol as my_script.py:my_protocol")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    beside = str(path.parent.resolve())
    if beside not in sys.path:  # for what lies beside the script; last, so that it hides nothing
        sys.path.append(beside)
    spec.loader.exec_module(module)
    source_code.remember(path.parent)  # steps are what was loaded, not what somebody edits while they run
    return module
