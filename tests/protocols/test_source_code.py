"""What makes a step another one: its own code and all that it names, but no comment, and nothing that it leaves out."""

import functools
import sys
from pathlib import Path

import pytest

from protocols.shipped.iv_sweep import sweep_cell
from protocols.shipped.mtj_mnist import classify_images, train_unaware
from protocols.source import identity
from protocols.source.catalogue import _load
from protocols.source.source_code import ROOMS, code_of, differing, from_text, to_text
from protocols.steps.analog_write import write_analog

pytestmark = pytest.mark.slow

SCRIPT = '''
"""A protocol."""
import functools
import os

import numpy as np
import xarray as xr

import beside
from beside import LIMITS, Base as Root
from deep.inner import depth
from protocols.sequencer.run import Run, protocol, step

VOLTS = 0.9
TABLE = {"a": 1}
TABLE["b"] = 2
LISTED = []
LISTED.append(3)
FROM_OUTSIDE = float(os.environ.get("XBAR_TEST_VOLTS", "1"))
FIRE = lambda array: array.pulse(1)
if VOLTS > 5:
    WAY = "up"
else:
    WAY = "down"
UNUSED = 1


def twice(function):
    @functools.wraps(function)
    def both(*args, **named):
        function(*args, **named)
        return function(*args, **named)

    return both


def _pulse(array, volts=VOLTS):
    """Fire."""
    array.pulse(volts, TABLE, LISTED, WAY)


class Writer(Root):
    """Writes."""

    share: float = 0.5

    def write(self, array):
        return self.again(array)

    def again(self, array):
        if array:
            return self.write(None)
        return LIMITS


@twice
def stress(bench, die, *, n: int = 1):
    """Stress."""
    _pulse(bench.array)
    FIRE(bench.array)
    Writer().write(bench.array)
    TABLES = [TABLE for UNUSED in range(n)]
    return xr.Dataset(attrs={"v": FROM_OUTSIDE, "at": beside.offset(depth()), "t": len(TABLES)})


def other(bench, die):
    return UNUSED


def made(volts, calls):
    def fired(bench, die):
        calls.append(1)
        return bench.array.pulse(volts)

    return fired


def count(report, *, x):
    return x + VOLTS
'''
BESIDE = """
import numpy as np
LIMITS = (0.1, np.pi)
STEP = 0.1
class Base:
    kind = 1
def offset(x):
    return x + STEP
def unused():
    return 5
"""
INNER = "from . import constants\ndef depth():\n    return constants.DEPTH\n"
CONSTANTS = "DEPTH = 3\n"


@pytest.fixture
def versions(tmp_path, monkeypatch):
    """Loads the script, each time from a folder of its own, with texts exchanged in it or beside it."""
    number = iter(range(100))

    def load(*edits):
        folder = tmp_path / str(next(number)) / "lab"
        files = {"p.py": SCRIPT, "beside.py": BESIDE, "deep/inner.py": INNER, "deep/constants.py": CONSTANTS}
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "__init__.py").write_text("")
        for old, new in edits:
            assert any(old in text for text in files.values()), old
            files = {name: text.replace(old, new) for name, text in files.items()}
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name in ("beside", "deep", "deep.inner", "deep.constants"):
            sys.modules.pop(name, None)
        monkeypatch.syspath_prepend(folder)
        return _load(folder / "p.py")

    yield load
    for name in ("beside", "deep", "deep.inner", "deep.constants", "p.py"):
        sys.modules.pop(name, None)


def code(module, name="stress"):
    return code_of(getattr(module, name), ("protocols",))


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("VOLTS = 0.9", "VOLTS = 1.1", "VOLTS"),
        ("array.pulse(volts, TABLE", "array.pulse(2 * volts, TABLE", "_pulse"),
        ("return self.again(array)", "return self.again(0)", "Writer"),
        ("        return LIMITS", "        return 5, LIMITS", "Writer"),
        ("share: float = 0.5", "share: float = 0.6", "Writer"),
        ("kind = 1", "kind = 2", "Base"),
        ("LIMITS = (0.1", "LIMITS = (0.2", "LIMITS"),
        ("STEP = 0.1", "STEP = 0.2", "STEP"),
        ("return x + STEP", "return x - STEP", "offset"),
        ("DEPTH = 3", "DEPTH = 4", "DEPTH"),
        ('TABLE = {"a": 1}', 'TABLE = {"a": 2}', "TABLE"),
        ('TABLE["b"] = 2', 'TABLE["b"] = 3', "TABLE"),
        ("LISTED.append(3)", "LISTED.append(4)", "LISTED"),
        ("array.pulse(1)", "array.pulse(2)", "FIRE"),
        ('WAY = "down"', 'WAY = "no way"', "WAY"),
        ("        return function(*args, **named)", "        return None", "twice"),
        ("@twice\n", "", "stress"),
        ("range(n)", "range(n + 1)", "stress"),
        ("n: int = 1", "n: int = 2", "stress"),
        ('"XBAR_TEST_VOLTS", "1"', '"XBAR_TEST_VOLTS", "2"', "FROM_OUTSIDE"),
    ],
)
def test_an_edit_of_what_a_step_uses_makes_it_another_one(versions, old, new, part):
    before, now = code(versions()), code(versions((old, new)))
    assert part in {name.rpartition(".")[2] for name in differing(before, now)}
    assert differing(from_text(to_text(before)), now)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("VOLTS = 0.9", "VOLTS = 0.9  # as in the paper"),
        ("VOLTS = 0.9", "\n\n# moved down\nVOLTS = 0.90"),
        ('"""Fire."""', '"""Fire once."""'),
        ('"""Stress."""', ""),
        ('"""Writes."""\n', ""),
        ("n: int = 1", "n: float = 1"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("return 5", "return 6"),
        ("def other(bench, die):", "def another(bench, die):"),
        ("    _pulse(bench.array)\n", "    _pulse(\n        bench.array,  # the die\n    )\n"),
        ("def _pulse(array, volts=VOLTS):", "def _pulse(array, volts=VOLTS) -> None:"),
        ("return x + VOLTS", "return x - VOLTS"),
    ],
)
def test_an_edit_of_nothing_that_it_uses_does_not(versions, old, new):
    assert to_text(code(versions())) == to_text(code(versions((old, new))))


def test_marks_and_names_change_nothing(versions):
    marked = code(versions(("@twice\ndef stress", '@step("stress-cell")\n@twice\ndef stress')))
    assert to_text(code(versions())) == to_text(marked)


def test_a_constant_from_outside_is_known_by_its_value(versions, monkeypatch):
    before = code(versions())
    monkeypatch.setenv("XBAR_TEST_VOLTS", "1.5")
    assert differing(before, code(versions())) == ["p.py.FROM_OUTSIDE is"]


def test_functions_made_by_others_are_told_apart_by_what_they_hold(versions):
    module, calls = versions(), []
    one, two, again = module.made(0.9, calls), module.made(1.1, calls), module.made(0.9, [])
    codes = [code_of(each, ()) for each in (one, two, again)]
    assert codes[0] != codes[1] and codes[0] == codes[2]
    calls.append(1)
    assert code_of(one, ()) == codes[0], "what it collects while it runs makes it no other one"


def test_lambdas_partial_functions_methods_and_objects_have_code(versions):
    module = versions()
    low, high = (lambda bench, die: module.VOLTS), (lambda bench, die: module.UNUSED)
    assert "VOLTS" in to_text(code_of(low, ())) and "UNUSED" in to_text(code_of(high, ()))
    bound = functools.partial(module._pulse, 3)
    assert "array.pulse" in to_text(code_of(bound, ())) and "bound arguments" in code_of(bound, ())
    assert "p.py.Writer" in code_of(module.Writer().write, ()) and "beside.Base" in code_of(module.Writer().write, ())
    assert identity.of_step(bound, {}).name == "p.py._pulse"
    assert code_of(len, ())


def test_what_was_typed_at_a_prompt_is_known_by_its_byte_code():
    def typed(volts, pulse="0"):
        names = {"__name__": "prompt"}
        exec(f"V = {volts}\ndef helper(): return V + {pulse}\ndef fire(bench, die): return helper()", names)
        return to_text(code_of(names["fire"], ()))

    assert typed(1) == typed(1) and typed(1) != typed(2) and typed(1, "2") != typed(1, "3")


def test_a_computation_is_what_it_uses_of_any_room_and_a_step_what_it_uses_of_its_own():
    training, step = code_of(train_unaware, ROOMS), code_of(classify_images, ("protocols",))
    assert {
        "mapping.training.binary._Trainer",
        "mapping.training.network.BinaryNetwork",
        "mapping.placement.placement.place",
    } <= training.keys()
    assert {"protocols.steps.write_verify.program", "protocols.bench.conductances.read_conductances"} <= step.keys()
    assert not any(name.startswith("mapping") for name in step)
    assert "protocols.steps.analog_write._Write" in code_of(write_analog, ("protocols",))
    assert {f"protocols.shipped.iv_sweep.{name}" for name in ("_read_all", "_moved", "_verdict")} <= code_of(
        sweep_cell, ("protocols",)
    ).keys()
    assert "protocols.shipped.mtj_mnist._planned_unaware" not in training, "what only a plan uses"


def test_a_module_that_is_edited_while_the_run_goes_on_counts_as_it_was_loaded(versions):
    module = versions()
    edited = "# another text\n" * 50 + SCRIPT.replace("range(n)", "range(n + 7)")
    Path(module.__file__).write_text(edited, encoding="utf-8")
    assert "n + 7" not in to_text(code(module))


def test_texts_of_another_python_are_read_by_this_one():
    before = {"p.f": "def f( a ):\n    return {'x' : \"y\"}"}
    assert differing(before, {"p.f": "def f(a):\n    return {'x': 'y'}"}) == []
    assert differing(before, {"p.f": "def f(a):\n    return {'x': 'z'}"}) == ["p.f"]
