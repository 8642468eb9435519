"""YAML files as anybody may have written them: plain values, no more of them than a lot or station file ever has.

The one reader of such files on this side of the wire. Text is UTF-8 whatever the locale, a key stands once, and a
number is what everybody reads as one: ``0x1F``, ``1_000``, ``1:30`` (ninety to YAML 1.1), ``010`` (eight), dates,
``.nan`` and ``.inf`` stay the text that they are, for whoever wants a number there to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

LARGEST = 20_000
"""Values in a file, every reference (``*name``) written out: nine levels of nine references are a billion."""

FILE_LARGEST = 4_000_000
"""Bytes of a file that is looked at at all."""

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,300})")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_INTEGER, _FLOAT, _BOOL, _TEXT = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "str"))
_KEPT = (_BOOL, "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")


class PlainYamlError(ValueError):
    """The file cannot be read, or is not plain YAML; the message says where and what to write instead."""


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, without the mark that some editors put before it.

    Raises
    ------
    PlainYamlError
        If the file cannot be read, is no such text, or larger than any such file.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LARGEST + 1)
    except OSError as error:
        raise PlainYamlError(f"{path} cannot be read: {error.strerror or error}; give another file") from error
    if len(data) > FILE_LARGEST:
        raise PlainYamlError(f"{path} is larger than {FILE_LARGEST} bytes; give a file of plain values")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise PlainYamlError(f"{path} is no text in UTF-8 ({error}); save it as such") from error


def read_yaml(path: Path) -> Any:
    """The content of a file. No tag makes an object, no reference a value that is endless or fills the memory.

    Raises
    ------
    PlainYamlError
        If that is not so, or the file cannot be read.
    """
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, origin: str) -> Any:
    """As `read_yaml`, of a text; `origin` names it in errors."""
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError as error:
        raise PlainYamlError(f"{origin} is nested too deeply; write plain values") from error
    except (yaml.YAMLError, ValueError) as error:
        raise PlainYamlError(f"{origin} is no plain YAML: {error}; write plain values there") from error


class _PlainLoader(yaml.SafeLoader):
    """Counts what references stand for before anything is made of them; takes each key once, and plain numbers."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._count, self._sizes = 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As the composer does; a reference counts as much as what it refers to."""
        event, before = self.peek_event(), self._count
        reference, mark = isinstance(event, yaml.AliasEvent), event.start_mark
        if getattr(event, "tag", None) not in (None, "!", _TEXT):
            raise yaml.YAMLError(f"the tag {event.tag!r}\n{mark}")
        self._count += not reference
        node = super().compose_node(parent, index)
        if not reference:
            self._sizes[id(node)] = self._count - before
        elif id(node) not in self._sizes:
            raise yaml.YAMLError(f"a value that holds itself\n{mark}")
        self._count += self._sizes[id(node)] if reference else 0
        if self._count > LARGEST:
            raise yaml.YAMLError(f"more than {LARGEST} values, with the references written out\n{mark}")
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """As the composer does; a key that stands twice is refused, where others take the last one in silence."""
        node = super().compose_mapping_node(anchor)
        known: dict[Hashable, yaml.Mark] = {}
        for key, _ in node.value:
            name = _name(key) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in known:
                raise yaml.YAMLError(
                    f"the key {key.value!r} stands twice, first{known[name]}\nand again{key.start_mark}"
                )
            known[name] = key.start_mark
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """As the resolver does, but a scalar is a number only if it is an ordinary decimal one."""
        tag: str = super().resolve(kind, value, implicit)
        if kind is not yaml.ScalarNode or not implicit[0]:
            return tag
        if _INT.fullmatch(value):
            return _INTEGER
        if _DECIMAL.fullmatch(value):
            return _FLOAT if math.isfinite(float(value)) else _TEXT
        return tag if tag in _KEPT else _TEXT


def _name(key: yaml.ScalarNode) -> Hashable:
    """What a key is the same as: true and 1 and 1.0 are one to a dict."""
    if key.tag == _BOOL:
        return float(yaml.SafeLoader.bool_values[key.value.lower()])
    return float(key.value) if key.tag in (_INTEGER, _FLOAT) else (key.tag, key.value)
