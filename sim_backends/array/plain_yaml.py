"""YAML files as anybody may have written them: plain values, no more of them than a lot or station file ever has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LARGEST = 20_000
"""Values in a file, every reference (``*name``) written out: nine levels of nine references are a billion."""


class PlainYamlError(ValueError):
    """The file cannot be read, or is not plain YAML; the message says where and what to write instead."""


def read_yaml(path: Path) -> Any:
    """The content of a file. No tag makes an object, no reference a value that is endless or fills the memory.

    Raises
    ------
    PlainYamlError
        If that is not so, or the file cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _BoundedLoader)
    except OSError as error:
        raise PlainYamlError(f"{path} cannot be read: {error.strerror or error}; give another file") from error
    except UnicodeDecodeError as error:
        raise PlainYamlError(f"{path} is no text in UTF-8 ({error}); save it as such") from error
    except RecursionError as error:
        raise PlainYamlError(f"{path} is nested too deeply; write plain values") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, and such
        raise PlainYamlError(f"{path} is no plain YAML: {error}; write plain values there") from error


class _BoundedLoader(yaml.SafeLoader):
    """Counts what references stand for before anything is made of them."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._count, self._sizes = 0, dict[int, int]()

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As the composer does; a reference counts as much as what it refers to."""
        reference, mark, before = self.check_event(yaml.AliasEvent), self.peek_event().start_mark, self._count
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
