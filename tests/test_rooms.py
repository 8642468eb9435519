"""Who may import whom, held by what is really loaded after importing every module of a room and no other of ours."""

import json
import os
import subprocess
import sys

import pytest

#: Room, and the prefixes of our own modules that may be loaded with it.
ALLOWED = {
    "instruments": ("instruments",),
    "sim_backends": ("sim_backends",),
    "mapping": ("mapping", "sim_backends.array"),
    "analysis": ("analysis", "mapping", "sim_backends.array"),
    "protocols": ("protocols", "analysis", "mapping", "instruments", "sim_backends.array"),
    "xbarlab": ("xbarlab",),  # loads the others only when it is asked to
}

# one interpreter for all rooms: it forgets our modules after each, so that only what others wrote is loaded once
LOAD_EACH = """
import importlib, json, pkgutil, sys
rooms, loaded = sys.argv[1:], {}
for name in rooms:
    assert not [known for known in sys.modules if known.partition(".")[0] in rooms]
    room = importlib.import_module(name)
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    loaded[name] = sorted(known for known in sys.modules if known.partition(".")[0] in rooms)
    for known in loaded[name]:
        del sys.modules[known]
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded_with():
    """Of each room, our modules that are loaded after importing every module of it."""
    done = subprocess.run([sys.executable, "-c", LOAD_EACH, *ALLOWED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_loads_only_what_lies_below_it(room, loaded_with):
    ours = loaded_with[room]
    parts = [name for name in ours if name != "sim_backends"]  # its __init__ is empty and comes with its parts
    strangers = [name for name in parts if not any(f"{name}.".startswith(f"{a}.") for a in ALLOWED[room])]
    assert room in ours
    assert strangers == []


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from protocols.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "slow = {'torch', 'qcodes', 'scipy', 'pandas', 'xarray', 'bokeh', 'h5py', 'numpy', 'numba'}\n"
        "heavy = slow & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("python_path", ["", ".", os.pathsep])
def test_a_process_of_ours_imports_nothing_from_the_working_folder(tmp_path, monkeypatch, python_path):
    """A `yaml.py` that lies where the user happens to be is not what we import."""
    from instruments.broker.client import Broker
    from sim_backends.station_process import spawn_station

    for name in ("yaml", "random", "serial", "psutil", "numpy", "site"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", python_path)
    with Broker(tmp_path / "station.yaml"):
        pass
    if not python_path:
        with spawn_station({"lot": "mtj", "dies": 1}):
            pass
    assert not (tmp_path / "ran").exists()
