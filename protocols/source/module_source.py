"""The text of a module, taken apart: what is defined at its top, what that refers to, how it reads without comments."""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

#: A name and the attributes asked of it: ``training.UNAWARE.epochs`` is ("training", "UNAWARE", "epochs").
Reference = tuple[str, ...]

_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPE = (*_FUNCTION, ast.Lambda)
_IMPORT = (ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Imported:
    """What an import binds a name to: a module, or (`name` is not empty) something in it."""

    module: str
    name: str


@dataclass(frozen=True)
class Said:
    """A statement without comments; what it refers to outside of itself; what is imported within it."""

    source: str
    references: list[Reference]
    imported: dict[str, Imported]


@dataclass(eq=False)
class ModuleSource:
    """A parsed module; `name` as it was imported, `package` what its relative imports start from."""

    name: str
    package: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """The statements at its top that define, bind or change each name, but not those that import it."""
        found: dict[str, list[ast.stmt]] = {}
        for statement in self.tree.body:
            for name in _bound(statement):
                found.setdefault(name, []).append(statement)
        for statement in self.tree.body:
            if isinstance(statement, ast.Expr):  # TABLE.update(...), register(Write)
                for name in {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} & found.keys():
                    found[name].append(statement)
        return found

    @cached_property
    def imports(self) -> dict[str, Imported]:
        """What is imported anywhere at its top, and from where."""
        nodes = (node for statement in self.tree.body for node in _outside_of_functions(statement))
        return dict(_imported([node for node in nodes if isinstance(node, _IMPORT)], self.package))

    @cached_property
    def stars(self) -> list[str]:
        """Modules of which everything is imported."""
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom)]
        return [_base(node, self.package) for node in nodes if any(alias.name == "*" for alias in node.names)]

    @cached_property
    def rebound(self) -> set[str]:
        """Names that functions bind anew while they run (``global``, ``nonlocal``): a value they have says nothing."""
        nodes = (node for node in ast.walk(self.tree) if isinstance(node, ast.Global | ast.Nonlocal))
        return {name for node in nodes for name in node.names}

    def said_by(self, node: ast.AST, without: Callable[[ast.AST], ast.AST]) -> Said:
        """What one of its statements says, once `without` has taken off it what does not count; looked at once."""
        if node not in self._said:
            shown = without(node)
            finder = _References()
            finder.visit(shown)
            inner = [each for each in ast.walk(shown) if isinstance(each, _IMPORT)]
            self._said[node] = Said(plain(shown), sorted(finder.found), dict(_imported(inner, self.package)))
        return self._said[node]

    @cached_property
    def _said(self) -> dict[ast.AST, Said]:
        """The statements that were looked at: many functions are made of the same ones."""
        return {}


def plain(node: ast.AST) -> str:
    """Source of a statement without comments, blank lines, docstrings and the types of arguments."""
    return ast.unparse(_Plain().visit(ast.parse(ast.unparse(node))))


def text_of_file(file: str) -> str:
    """The text of a file of code (also a cell of a notebook); empty if there is none."""
    linecache.checkcache(file)
    return "".join(linecache.getlines(file)) or _read(file)


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        return ""


def package_of(name: str) -> str:
    """The package of a module, as it is imported."""
    module = sys.modules.get(name)
    known = getattr(module, "__package__", None)
    return name.rpartition(".")[0] if known is None else str(known)


def named_modules(module: ModuleSource) -> set[str]:
    """Every module that an import anywhere in a source may load, with the packages they are in."""
    names = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module.package)
            names |= {base, *(f"{base}.{alias.name}".strip(".") for alias in node.names if alias.name != "*")}
    parts = [name.split(".") for name in names if name]
    return {".".join(each[:length]) for each in parts for length in range(1, len(each) + 1)}


class _Plain(ast.NodeTransformer):
    """Takes off what changes nothing."""

    def _body(self, node: ast.AST) -> ast.AST:
        body: list[ast.stmt] = getattr(node, "body", [])
        first = body[0].value if body and isinstance(body[0], ast.Expr) else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = _body

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._body(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._body(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


class _References(ast.NodeVisitor):
    """Names that are read and are not local to the function they are read in; types of arguments are not followed."""

    def __init__(self) -> None:
        self.found: set[Reference] = set()
        self._local: list[set[str]] = []

    def visit_Name(self, node: ast.Name) -> None:
        self._refer((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            self._refer((inner.id, *reversed(chain)))
        else:
            self.visit(inner)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        for part in (node.target, node.value):
            if part is not None:
                self.visit(part)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        for outside in (
            *getattr(node, "decorator_list", ()),
            *node.args.defaults,
            *filter(None, node.args.kw_defaults),
        ):
            self.visit(outside)
        self._local.append(_locals(node))
        for inside in node.body if isinstance(node.body, list) else [node.body]:
            self.visit(inside)
        self._local.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    def _refer(self, chain: Reference) -> None:
        if not any(chain[0] in names for names in self._local):
            self.found.add(chain)


def _locals(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    """Names that a function binds for itself; those that it imports are not among them."""
    args = node.args
    each = (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg)
    names = {argument.arg for argument in each if argument is not None}
    outer: set[str] = set()
    body = node.body if isinstance(node.body, list) else [node.body]
    for inner in (found for part in body for found in _outside_of_functions(part)):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
            names.add(inner.id)
        elif isinstance(inner, (*_FUNCTION, ast.ClassDef)) or (isinstance(inner, ast.ExceptHandler) and inner.name):
            names.add(str(inner.name))
        elif isinstance(inner, ast.Global | ast.Nonlocal):
            outer |= set(inner.names)
    return names - outer


def _outside_of_functions(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is in it, functions and classes themselves but nothing of what is in them."""
    yield node
    if not isinstance(node, (*_SCOPE, ast.ClassDef)):
        for inner in ast.iter_child_nodes(node):
            yield from _outside_of_functions(inner)


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement at the top of a module defines, binds or changes."""
    if isinstance(statement, _IMPORT):
        return set()
    names = set()
    for node in _outside_of_functions(statement):
        if isinstance(node, (*_FUNCTION, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            base: ast.expr = node
            while isinstance(base, ast.Attribute | ast.Subscript):
                base = base.value
            if isinstance(base, ast.Name):
                names.add(base.id)
    return names


def _base(node: ast.ImportFrom, package: str) -> str:
    """The module that ``from X import`` names."""
    if not node.level:
        return node.module or ""
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _imported(nodes: Sequence[ast.AST], package: str) -> Iterator[tuple[str, Imported]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or whole, Imported(whole, "")
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name != "*":
                    yield alias.asname or alias.name, Imported(_base(node, package), alias.name)


#: Names that need no module.
BUILTINS = frozenset(dir(builtins))
