"""From a weights file to states on a die: `xbar map`, `xbar program`, and what the die then really holds."""

import numpy as np
import pytest
from command_line import xbar
from safetensors.numpy import save_file

from analysis.record.record import Record
from mapping.dies.die_record import HARD_DEFECTS
from mapping.placement.coding import decode
from mapping.writing.schedule import WriteSchedule
from protocols.commands.map import find_die
from sim_backends.array.dies.lot import KINDS, load_lot
from sim_backends.array.dies.mtj_die import Die as SimulatedDie
from sim_backends.bench.bench import load_state, state_path

#: The first die of the route of this lot has dead lines among its 20,000 cells.
SEED, FIRST = 33, "c2r6"
SHAPES = ((40, 60), (10, 40))  # (outputs, inputs)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("map")


@pytest.fixture(scope="module", params=["binary", "ternary"])
def programmed(request, home):
    """A network mapped and programmed onto the first die: weights, schedule and the folder of the run."""
    values = {"binary": [-1.0, 1.0], "ternary": [-1.0, 0.0, 1.0]}[request.param]
    rng = np.random.default_rng(8)
    weights = [rng.choice(np.array(values, np.float32), shape) for shape in SHAPES]
    file, schedule, out = (home / f"{request.param}{end}" for end in (".safetensors", ".h5", ""))
    save_file({f"fc{number}.weight": w * 0.25 for number, w in enumerate(weights)}, str(file))
    mapped = xbar("map", file, "-o", schedule, "--coding", request.param)
    assert mapped.status == 0, mapped.said
    done = xbar("program", schedule, "--dies", 1, "--seed", SEED, "--out", out)
    assert done.status == 0, done.said
    return weights, WriteSchedule.load(schedule), out, done.said


def really_there(folder):
    """The die as the simulated station left it: states (1 P, 0 AP) and which cells can hold one."""
    lot = load_lot("mtj")
    index = lot.wafer.sites().index((2, 6))
    die = SimulatedDie.from_lot(lot, SEED, index)
    load_state(die, state_path(folder / "station" / "dies", index))
    able = die.alive & ~die.devices.broken & np.isin(die.kind, [KINDS.index("good"), KINDS.index("weak_tmr")])
    return np.where(die.devices.antiparallel, 0, 1).astype(np.int8), able


def test_the_states_on_the_die_are_the_weights_but_for_broken_cells(programmed):
    weights, schedule, out, _ = programmed
    states, able = really_there(out)
    on_the_die = decode(states, schedule.placement)
    usable = [able.ravel()[layer.cells[0]].all(axis=-1).T for layer in schedule.placement.layers]
    for wanted, found, sound in zip(weights, on_the_die, usable, strict=True):
        assert np.array_equal(found[sound], np.sign(wanted[sound]))
        assert sound.mean() > 0.9
    written = schedule.states >= 0
    assert np.array_equal(states[written & able], schedule.states[written & able])
    assert np.count_nonzero(written & ~able) > 10  # or the exception of this test is empty


def test_what_was_read_back_is_what_is_there(programmed):
    _, schedule, out, said = programmed
    with Record.open(out, create=False) as record:
        (outcome,) = record.results("program", "program")[FIRST]
    states, able = really_there(out)
    wanted = schedule.states >= 0
    assert np.array_equal(outcome["states"].values[wanted & able], states[wanted & able])
    assert outcome.attrs["verdict"] == "pass" and outcome.attrs["writable_wrong"] == 0
    assert outcome.attrs["cells"] == 2 * sum(n * m for n, m in SHAPES)
    assert FIRST in said and str(outcome.attrs["verified"]) in said


def test_mapping_for_a_measured_die_avoids_its_defects(programmed, home):
    _, schedule, out, _ = programmed
    avoiding = home / "avoiding.h5"
    coding = "binary" if "binary" in out.name else "ternary"
    file = out.with_suffix(".safetensors")
    mapped = xbar("map", file, "-o", avoiding, "--coding", coding, "--die", f"{out}:{FIRST}")
    assert mapped.status == 0, mapped.said
    _, able = really_there(out)
    there = WriteSchedule.load(avoiding)
    before, after = (int(np.count_nonzero(s.placement.used & ~able)) for s in (schedule, there))
    assert after < 0.3 * before
    record = find_die(f"{out}:{FIRST}")
    broken = np.isin(record.cell_class, HARD_DEFECTS)
    assert not any((batch.mask & broken[batch.kernel]).any() for batch in there.batches)
    assert [w.shape for w in decode(there.states, there.placement)] == list(SHAPES)


def test_a_die_that_was_not_measured_is_named_with_those_that_were(programmed, home):
    *_, out, _ = programmed
    done = xbar("map", out.with_suffix(".safetensors"), "-o", home / "x.h5", "--die", f"{out}:c0r0")
    assert done.status == 1 and f"no measured die 'c0r0'; it has {FIRST}" in done.said
