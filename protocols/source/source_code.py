"""The code that a function is made of: itself and the helpers, classes and constants that it uses, transitively.

What is followed are names: of functions, classes, methods' classes and module-level data, through imports, within the
packages that are asked for and within the folder of the function's own file. What an object does that is passed in is
not; nor are other packages, whose versions are kept with a run. Comments, blank lines, docstrings and the types of
arguments are left out, so that editing them changes nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import os
import sys
import sysconfig
import textwrap
import types
import weakref
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from analysis.record.digest import describe
from protocols.source.module_source import BUILTINS, Imported, ModuleSource, Reference, package_of, plain, text_of_file

#: Our own packages.
ROOMS = ("instruments", "sim_backends", "mapping", "analysis", "protocols")
#: Where they lie.
_HOME = Path(__file__).resolve().parents[2]
_STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()
#: Modules of marks: what they say of a function changes nothing of what it does.
_MARKS = ("protocols.source.marks", "protocols.sequencer.planned", "protocols.sequencer.run")
#: Expressions whose value is another at every start.
_CHANGING = {"time", "datetime", "uuid", "random", "getpid", "__file__"}
#: What stands before the name of each part in a text of code.
_HEAD = "#:: "

Parts = dict[str, str]


def code_of(function: Callable[..., Any], packages: Iterable[str]) -> Parts:
    """Name and normalised source of everything that a function is made of, itself first.

    Parameters
    ----------
    packages
        Those of our packages that are followed; the folder of the function's own file always is.
    """
    root, held = _unwrapped(function), Parts()
    for each in _held_by(function):
        held |= each
    return _code(root, tuple(packages)) | held


def digest(*functions: Callable[..., Any]) -> str:
    """Digest over all that functions or classes are made of, of any room: results of other code are not compared."""
    text = "".join(to_text(code_of(function, ROOMS)) for function in functions)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_text(parts: Parts) -> str:
    """The parts as one text, for people and for a record."""
    return "".join(f"{_HEAD}{name}\n{source}\n" for name, source in parts.items())


def is_code(text: str) -> bool:
    """Whether a text was made by `to_text`."""
    return text.startswith(_HEAD)


def from_text(text: str) -> Parts:
    """Inverse of `to_text`; of a plain source (so records of schema 3 kept it) the definitions at its top."""
    if not is_code(text):
        return _definitions(text)
    parts = Parts()
    for block in f"\n{text}".split(f"\n{_HEAD}")[1:]:
        name, _, source = block.partition("\n")
        parts[name] = source.rstrip("\n")
    return parts


def differing(before: Parts, now: Parts) -> list[str]:
    """Names of the parts that are not what they were, as Python reads them; whatever version of it wrote them down."""
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [
        name for name in names if name not in before or name not in now or _again(before[name]) != _again(now[name])
    ]


def path_of(function: Any) -> str:
    """Module and name of a function, of what a partial one or an object that is called rests on."""
    held = _unwrapped(function) if not hasattr(function, "__qualname__") else function
    return f"{held.__module__}.{getattr(held, '__qualname__', type(held).__name__)}"


def remember(folder: Path) -> None:
    """Read the modules that are loaded from a folder now: their files may be edited while a run goes on."""
    home, here = str(folder.resolve()), str(Path.cwd())
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # a path made of every one of thousands of modules would take longer than all else of finding a protocol
        if file and file.endswith(".py") and _lies_in(os.path.dirname(file), here, home):  # noqa: PTH120
            _module_of_file(file, module.__name__)


@functools.cache
def _lies_in(folder: str, here: str, home: str) -> bool:
    """Whether a folder, as seen from here, is another one or in it, links followed; modules lie in a few hundred."""
    return Path(here, folder).resolve().is_relative_to(home)


# one function


def _code(function: Any, packages: tuple[str, ...]) -> Parts:
    if not isinstance(function, types.FunctionType):
        return _Walk(packages, function).parts()
    known = _CACHE.setdefault(function, {})
    if packages not in known:
        known[packages] = _Walk(packages, function).parts()
    return known[packages]


#: Functions that were looked at and what they are made of: looked at once, as lists that they hold may grow.
_CACHE: weakref.WeakKeyDictionary[types.FunctionType, dict[tuple[str, ...], Parts]] = weakref.WeakKeyDictionary()


def _unwrapped(function: Any) -> Any:
    """The function or class that holds the code of a callable."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif callable(function) and not hasattr(function, "__code__") and not inspect.isclass(function):
            call = inspect.getattr_static(type(function), "__call__", None)
            if not isinstance(call, types.FunctionType):
                return function
            function = call
        else:
            return function


def _held_by(function: Any) -> Iterable[Parts]:
    """What a partial function, a method's object or a decorator holds beside the code."""
    while True:
        if isinstance(function, functools.partial):
            yield {"bound arguments": f"{_value(list(function.args))}"} if function.args else {}
            function = function.func
        elif isinstance(function, types.MethodType):
            yield {"object": _value(function.__self__)}
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return


class _Walk:
    """Goes from a function to all that it names."""

    def __init__(self, packages: tuple[str, ...], function: Any) -> None:
        self._packages, self._function = packages, function
        self._folder = _folder_of(function)
        self._parts = Parts()
        self._seen: set[tuple[str, str]] = set()
        self._waiting: list[tuple[ModuleSource, str]] = []

    def parts(self) -> Parts:
        """Everything that it found, the function first, the rest by name."""
        self._of_object(self._function)
        while self._waiting:
            self._make_known(*self._waiting.pop())
        first = next(iter(self._parts), "")
        return {name: self._parts[name] for name in sorted(self._parts, key=lambda name: (name != first, name))}

    def _of_object(self, function: Any) -> None:
        """A function or class at hand, wherever it was made."""
        code, name = getattr(function, "__code__", None), path_of(function)
        if (name, str(id(code or function))) in self._seen:
            return
        self._seen.add((name, str(id(code or function))))
        module = _module_of(function)
        node = None if module is None else _node_of(module, function)
        if module is None or node is None:
            self._without_source(function, name)
            return
        if node in module.tree.body and isinstance(node, ast.stmt):
            self._seen.add((module.name, getattr(node, "name", name)))
            self._make_known(module, getattr(node, "name", name))
        else:
            self._add(name, node, module)
            for outer in _enclosing_classes(module, node):
                self._define(module, outer)
        self._closure(function, name, module.rebound)

    def _closure(self, function: Any, name: str, rebound: Collection[str] = ()) -> None:
        """What a function made within another one holds of it."""
        code = getattr(function, "__code__", None)
        for key, cell in zip(
            code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=True
        ):
            if key not in rebound:
                self._value_of(f"{name}: {key}", _content(cell))

    def _value_of(self, name: str, value: Any) -> None:
        if isinstance(value, types.FunctionType | type) and self._follows_object(value):
            self._of_object(value)
        elif isinstance(value, functools.partial) and self._follows_object(_unwrapped(value)):
            self._of_object(_unwrapped(value))
            self._parts[name] = _value([*value.args, dict(value.keywords)])
        elif not isinstance(value, types.ModuleType | types.FunctionType | type):
            self._parts[name] = _value(value)

    def _without_source(self, function: Any, name: str) -> None:
        """Typed in at a prompt: by its byte code and by what its names stand for now."""
        code = getattr(function, "__code__", None)
        if code is None:
            self._parts.setdefault(name, f"# {type(function).__name__} without source")
            return
        self._parts[name] = f"# byte code {_byte_code(code)}"
        for word in sorted(_names_in(code)):
            if word in function.__globals__ and word not in BUILTINS:
                self._value_of(f"{name}: {word}", function.__globals__[word])
        self._closure(function, name)

    def _follows_object(self, value: Any) -> bool:
        name = str(getattr(value, "__module__", ""))
        return name not in sys.modules or self._follows(name)

    # modules and names

    def _define(self, module: ModuleSource, name: str) -> None:
        """Look at a name at the top of a module, later."""
        if (module.name, name) not in self._seen:
            self._seen.add((module.name, name))
            self._waiting.append((module, name))

    def _make_known(self, module: ModuleSource, name: str) -> None:
        """A name at the top of a module, with all that makes it what it is."""
        statements = module.definitions.get(name)
        if statements is None:
            self._import(module.imports.get(name), (), module, name)
            return
        for statement in statements:
            self._add(f"{module.name}.{name}", statement, module)
        if not any(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for each in statements):
            self._runtime_value(module, name, statements)

    def _add(self, name: str, node: ast.AST, module: ModuleSource) -> None:
        said = module.said_by(node, without=functools.partial(_without_marks, module=module))
        if said.source not in self._parts.get(name, ""):
            self._parts[name] = "\n".join(filter(None, [self._parts.get(name), said.source]))
        for reference in said.references:
            self._follow(module, said.imported, reference)

    def _follow(self, module: ModuleSource, inner: dict[str, Imported], reference: Reference) -> None:
        name, *attributes = reference
        if name in inner:
            self._import(inner[name], tuple(attributes), module, name)
        elif name in module.definitions:
            self._define(module, name)
        elif name in module.imports:
            self._import(module.imports[name], tuple(attributes), module, name)
        elif name not in BUILTINS:
            for star in module.stars:
                found = self._module(star)
                if found is not None and (name in found.definitions or name in found.imports):
                    self._define(found, name)

    def _import(self, found: Imported | None, attributes: Reference, module: ModuleSource, name: str) -> None:
        if found is None:
            return
        inside = f"{found.module}.{found.name}" if found.name else found.module
        owner = self._module(found.module)
        if found.name and owner is not None and (found.name in owner.definitions or found.name in owner.imports):
            self._define(owner, found.name)
            return
        target, rest = self._module(inside), list(attributes)
        while rest and self._module(f"{inside}.{rest[0]}") is not None:
            inside = f"{inside}.{rest.pop(0)}"
            target = self._module(inside)
        if target is None:
            return
        if rest:
            self._define(target, rest[0])
        elif (target.name, "") not in self._seen:  # the module itself is handed on: all of it
            self._seen.add((target.name, ""))
            for each in list(target.definitions):
                self._define(target, each)

    def _module(self, name: str) -> ModuleSource | None:
        return _module_named(name, self._folder) if self._follows(name) else None

    def _follows(self, name: str) -> bool:
        room = name.partition(".")[0]
        if room in ROOMS and _is_ours(name):
            return room in self._packages
        file = _file_named(name, self._folder)
        return file is not None and self._folder is not None and _inside(file, self._folder)

    def _runtime_value(self, module: ModuleSource, name: str, statements: list[ast.stmt]) -> None:
        """The value of a constant that its source does not tell: from the environment, from a file."""
        value = vars(sys.modules[module.name]).get(name) if module.name in sys.modules else None
        if name in module.rebound or not _is_plain(value):
            return
        words = {node.id for each in statements for node in ast.walk(each) if isinstance(node, ast.Name)}
        words |= {node.attr for each in statements for node in ast.walk(each) if isinstance(node, ast.Attribute)}
        if words - {name} and not words & _CHANGING:
            self._parts[f"{module.name}.{name} is"] = repr(value)


# sources of modules


def _module_of(function: Any) -> ModuleSource | None:
    code = getattr(function, "__code__", None)
    file = code.co_filename if code is not None else getattr(sys.modules.get(function.__module__), "__file__", None)
    return _module_of_file(file, str(function.__module__)) if file else None


def _module_of_file(file: str, name: str) -> ModuleSource | None:
    """The source of a module as it was when it was loaded, as near as that is known; None if it cannot be read."""
    loaded = sys.modules.get(name)
    known = _SOURCES.get((file, name))
    if known is None or known[0] is not loaded:
        known = _SOURCES[file, name] = (loaded, _parsed(file, name))
    return known[1]


#: Sources by file and name of the module, with the module that was loaded from it.
_SOURCES: dict[tuple[str, str], tuple[types.ModuleType | None, ModuleSource | None]] = {}


def _parsed(file: str, name: str) -> ModuleSource | None:
    text = text_of_file(file)
    if not text:
        return None
    module = ModuleSource(name, package_of(name), text)
    try:
        return module if module.tree else None
    except (SyntaxError, ValueError, RecursionError):
        return None


def _module_named(name: str, folder: Path | None) -> ModuleSource | None:
    file = _file_named(name, folder)
    return None if file is None else _module_of_file(str(file), name)


@functools.cache
def _file_named(name: str, folder: Path | None) -> Path | None:
    """The file of a module; of one that is not loaded yet, where it would be loaded from."""
    loaded = getattr(sys.modules.get(name), "__file__", None)
    if loaded is not None:
        return Path(loaded) if loaded.endswith(".py") else None
    if name in sys.modules or not name:
        return None
    homes = [_HOME] if name.partition(".")[0] in ROOMS else [] if folder is None else [folder]
    for home in homes:
        place = home.joinpath(*name.split("."))
        for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def _is_ours(name: str) -> bool:
    file = _file_named(name, None)
    return file is None or _inside(file, _HOME)


def _inside(file: Path, folder: Path) -> bool:
    """Whether a file is somebody's own in a folder: not installed there."""
    file = file.resolve()
    if not file.is_relative_to(folder):
        return False
    installed = {"site-packages", "dist-packages"} & set(file.relative_to(folder).parts)
    return not installed and not file.is_relative_to(_STDLIB)


def _folder_of(function: Any) -> Path | None:
    """The folder of the script that a function stands in; None for our own and for what has no file."""
    module = _module_of(function)
    file = None if module is None else _file_of(function)
    if file is None or (file.is_relative_to(_HOME) and file.relative_to(_HOME).parts[0] in ROOMS):
        return None
    return file.parent


def _file_of(function: Any) -> Path | None:
    code = getattr(function, "__code__", None)
    file = code.co_filename if code is not None else getattr(sys.modules.get(function.__module__), "__file__", "")
    return Path(file).resolve() if file and Path(file).is_file() else None


# nodes


def _node_of(module: ModuleSource, function: Any) -> ast.AST | None:
    """Where a function or class stands in the source of its module."""
    code = getattr(function, "__code__", None)
    if code is None:
        found = module.definitions.get(function.__qualname__, [])
        return next((node for node in found if isinstance(node, ast.ClassDef)), None)
    kinds = ast.Lambda if code.co_name == "<lambda>" else (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [
        node for node in ast.walk(module.tree) if isinstance(node, kinds) and _first_line(node) == code.co_firstlineno
    ]
    nodes = [node for node in nodes if getattr(node, "name", "<lambda>") == code.co_name]
    if len(nodes) > 1:
        nodes = [node for node in nodes if _holds(node, code)] or nodes
    return nodes[0] if nodes else None


def _first_line(node: Any) -> int:
    return min([int(node.lineno), *(int(each.lineno) for each in getattr(node, "decorator_list", ()))])


def _holds(node: Any, code: types.CodeType) -> bool:
    """Whether a node is the one that a code object was made of, where several begin in one line."""
    body = node.body if isinstance(node, ast.Lambda) else node
    places = [(line, column) for line, _, column, _ in code.co_positions() if line is not None and column is not None]
    inside = [place for place in places if place > (node.lineno, node.col_offset)]
    return bool(inside) and (body.lineno, body.col_offset) <= min(inside) and max(inside) <= (
        node.end_lineno, node.end_col_offset
    )  # fmt: skip


def _enclosing_classes(module: ModuleSource, node: ast.AST) -> list[str]:
    """The class at the top of a module that a method stands in."""
    classes = [each for each in module.tree.body if isinstance(each, ast.ClassDef)]
    return [each.name for each in classes if any(inner is node for inner in ast.walk(each))]


def _without_marks(node: ast.AST, module: ModuleSource) -> ast.AST:
    """A definition without those of its decorators that only mark it."""
    decorators = getattr(node, "decorator_list", None)
    if not decorators:
        return node
    kept = [each for each in decorators if not _is_mark(each, module)]
    fields = {name: getattr(node, name) for name in node._fields} | {"decorator_list": kept}
    return ast.copy_location(type(node)(**fields), node)


def _is_mark(decorator: ast.expr, module: ModuleSource) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    base = called
    while isinstance(base, ast.Attribute):
        base = base.value
    found = module.imports.get(base.id) if isinstance(base, ast.Name) else None
    if found is None:
        return False
    return found.module in _MARKS or f"{found.module}.{found.name}" in _MARKS


def _definitions(source: str) -> Parts:
    """Definitions at the top of a source, by name, normalised; none of them if it cannot be read."""
    try:
        module = ModuleSource("", "", textwrap.dedent(source))
        return {
            name: "\n".join(plain(_bare(each)) for each in statements)
            for name, statements in module.definitions.items()
        }
    except (SyntaxError, ValueError, RecursionError):
        return Parts()


def _bare(node: ast.AST) -> ast.AST:
    if getattr(node, "decorator_list", None):
        node.decorator_list = []  # type: ignore[attr-defined]
    return node


def bare(source: str) -> str:
    """A definition without any of its decorators, as this version of Python writes it."""
    try:
        return "\n".join(plain(_bare(each)) for each in ast.parse(source).body)
    except (SyntaxError, ValueError, RecursionError):
        return source


def _again(source: str) -> str:
    """A source as this version of Python writes it."""
    try:
        return ast.unparse(ast.parse(source)) or source
    except (SyntaxError, ValueError, RecursionError):
        return source


# values


def _value(value: Any) -> str:
    """What a value is, in a text that is the same for equal ones; of what cannot be told only the kind."""
    try:
        return repr(describe(value))
    except (TypeError, RecursionError):
        return f"# {type(value).__module__}.{type(value).__qualname__}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | complex | str | bytes)


def _byte_code(code: types.CodeType) -> str:
    inner = [
        _byte_code(each)
        if isinstance(each, types.CodeType)
        else repr(sorted(map(repr, each)) if isinstance(each, frozenset) else each)
        for each in code.co_consts
    ]
    whole = [code.co_code.hex(), code.co_names, code.co_varnames, inner]
    return hashlib.sha256(repr(whole).encode()).hexdigest()


def _names_in(code: types.CodeType) -> set[str]:
    inner = [_names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*inner)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None
