"""Conventions that every driver of the package keeps."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
from qcodes.instrument import Instrument

from instruments import drivers as package
from instruments.foreign.held_drivers import PyMeasureInstrument
from instruments.roles.interfaces import ArrayTester, Clock, FieldSource, Prober, Pulser, SourceMeter, SwitchMatrix

ROLES = (Prober, ArrayTester, FieldSource, Clock, SourceMeter, Pulser, SwitchMatrix)


def drivers():
    """All drivers of the package that are of an instrument; one that holds another package's driver has its roles."""
    found = []
    for module in pkgutil.iter_modules(package.__path__, "instruments.drivers."):
        for each in vars(importlib.import_module(module.name)).values():
            ours = isinstance(each, type) and issubclass(each, Instrument) and each.__module__ == module.name
            if ours and each is not PyMeasureInstrument:
                found.append(each)
    return found


def asks(role):
    """Names of the methods of a role."""
    return [name for name, each in vars(role).items() if not name.startswith("_") and callable(each)]


def test_there_are_drivers():
    assert {each.__name__ for each in drivers()} >= {"FramedBoard", "Sentio"}


@pytest.mark.parametrize("driver", drivers())
def test_a_driver_fills_a_role_to_the_letter(driver):
    filled = [role for role in ROLES if issubclass(driver, role)]
    assert filled, f"{driver.__name__} fills no role"
    for role in filled:
        for name in asks(role):
            wanted, given = (inspect.signature(getattr(each, name)) for each in (role, driver))
            assert given.replace(return_annotation=None) == wanted.replace(return_annotation=None), name
            assert given.return_annotation == wanted.return_annotation, name


@pytest.mark.parametrize("driver", drivers())
def test_public_methods_are_documented(driver):
    for name, each in vars(driver).items():
        if not name.startswith("_") and callable(each):
            assert each.__doc__ and each.__doc__.strip().endswith((".", "`", ")")), name


@pytest.mark.parametrize("name", ["board", "sentio"])
def test_parameters_say_what_they_are_and_in_which_unit(name, request):
    driver = request.getfixturevalue(name)
    for each in driver.parameters.values():
        if each.name == "IDN":
            continue
        doc = each.__doc__ or ""
        assert doc.lstrip().startswith(("Control", "Get", "Measure", "Set")), f"{each.name}: {doc!r}"
        assert f"({each.unit or 'count'})" in doc, f"{each.name} does not name its unit"


@pytest.mark.parametrize("name", ["board", "sentio"])
def test_closing_twice_is_harmless(name, request):
    driver = request.getfixturevalue(name)
    driver.close()
    driver.close()


def test_roles_and_limits_are_light():
    heavy = "{'qcodes', 'pyvisa', 'serial', 'pydantic'}"
    code = f"import instruments.roles.interfaces, instruments.roles.limits, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
