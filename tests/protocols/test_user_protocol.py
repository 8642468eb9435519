"""A protocol of the user's own: as a script on the command line, and in tests with the fixtures that we ship."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.record.record import Record
from protocols.source.catalogue import find

pytestmark = pytest.mark.slow

SCRIPT = """
import numpy as np
import xarray as xr

from protocols.steps.characterise import check_contact
from protocols.bench.conductances import read_conductances
from protocols.sequencer.run import protocol


def read_noise(bench, die, *, v_read: float, repeats: int):
    g = np.stack([read_conductances(bench.array, v_read, kernels=[0])[0] for _ in range(repeats)])
    return xr.Dataset({"g": (("repeat", "row", "column"), g, {"units": "S"})}, attrs={"v_read": v_read})


@protocol
def noise(run, *, v_read: float = 0.2, repeats: int = 2):
    for die in run.dies():
        if run.step(check_contact, die).attrs["verdict"] != "pass":
            continue
        reads = run.step(read_noise, die, v_read=v_read, repeats=repeats)
    return f"spread {float(reads['g'].std('repeat').median()):.2e} S on {die.name}"
"""


@pytest.fixture
def run_noise(xbar, served, tmp_path):
    """Runs the script of this page at the station of the module; `where` is how the user names it."""
    (tmp_path / "noise.py").write_text(SCRIPT, encoding="utf-8")

    def run(*options, where=tmp_path / "noise.py"):
        arguments = ("--station", served.file, "--dies", 2, "--out", tmp_path / "lot")
        return xbar("run", f"{where}:noise", *arguments, *options)

    return run


def _reads(tmp_path):
    with Record.open(tmp_path / "lot", create=False) as record:
        return record.results("noise.py:noise", "noise.py.read_noise")


def test_a_script_is_run_with_its_parameters(run_noise, served, tmp_path):
    done = run_noise("--set", "v_read=100mV", "--repeats", 3)
    assert done.status == 0, done.said
    reads = _reads(tmp_path)
    assert list(reads) == ["c2r6", "c3r6"]
    for (data,) in reads.values():
        assert data.attrs["v_read"] == pytest.approx(0.1) and data["g"].attrs == {"units": "S"}
        assert data["g"].shape == (3, 25, 25) and (data["g"].std("repeat").values > 0).any()
    assert "spread " in done.said and "on c3r6" in done.said
    volts = {round(entry["v"], 2) for entry in served.new_actions() if entry["what"] == "read"}
    assert volts == {0.1}


def test_defaults_are_those_of_the_script(run_noise, served, tmp_path):
    assert run_noise().status == 0
    (data,) = _reads(tmp_path)["c2r6"]
    assert data.attrs["v_read"] == 0.2 and data.sizes["repeat"] == 2
    assert 0.2 in {round(entry["v"], 2) for entry in served.new_actions() if entry["what"] == "read"}


def test_the_same_script_named_from_elsewhere_goes_on_where_it_was(run_noise, served, tmp_path, monkeypatch):
    assert run_noise().status == 0
    served.new_actions()
    monkeypatch.chdir(tmp_path)
    done = run_noise(where="noise.py")
    assert done.status == 0, done.said
    assert served.new_actions() == []


def test_an_edited_step_is_done_anew_and_only_that(run_noise, served, tmp_path):
    assert run_noise().status == 0
    served.new_actions()
    (tmp_path / "noise.py").write_text(SCRIPT.replace("kernels=[0])[0]", "kernels=[5])[5]"), encoding="utf-8")
    assert run_noise().status == 0
    actions = served.new_actions()
    assert {entry["kernel"] for entry in actions if entry["what"] == "read"} == {0, 31, 5}  # contact is looked at in 2
    assert [len(sets) for sets in _reads(tmp_path).values()] == [1, 1]


COMPUTED = """
import xarray as xr
from protocols.sequencer.run import protocol

def answer(report):
    return xr.Dataset(attrs={"answer": 1})

@protocol
def ask(run):
    return f"the answer is {run.compute(answer).attrs['answer']}"
"""


def test_an_edited_computation_is_done_anew_whatever_the_script_is_called(xbar, tmp_path):
    for number in (1, 2, 1):
        (tmp_path / "mapping.py").write_text(COMPUTED.replace('"answer": 1', f'"answer": {number}'), encoding="utf-8")
        done = xbar("run", f"{tmp_path / 'mapping.py'}:ask", "--out", tmp_path / "lot")
        assert f"the answer is {number}" in done.said
    import mapping

    assert Path(mapping.__path__[0]).is_dir()  # the package, no script


def test_an_edit_is_seen_though_size_and_second_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    script = tmp_path / "lab.py"
    for number in (1, 2):
        script.write_text(COMPUTED.replace('"answer": 1', f'"answer": {number}'), encoding="utf-8")
        os.utime(script, (1_700_000_000, 1_700_000_000))
        assert find(f"{script}:ask").__globals__["answer"](None).attrs["answer"] == number


def test_a_fault_in_a_script_is_shown_where_it_is(run_noise, served, tmp_path):
    (tmp_path / "noise.py").write_text(SCRIPT.replace("np.stack", "np.stuck"), encoding="utf-8")
    with pytest.raises(AttributeError, match="stuck") as fault:
        run_noise()
    assert any("noise.py" in str(entry.path) for entry in fault.traceback)
    assert [entry["what"] for entry in served.new_actions()][:2] == ["move", "contact"]


INNER = """
import numpy as np
import pytest
from protocols.pytest_plugin import LotChoice
from protocols.bench.conductances import read_conductances


@pytest.fixture
def lot():
    return LotChoice("mtj", seed=5)


def test_everything_there_is(lot, station, record, bench, die):
    assert station.prober.where() == die.site and bench.die == die
    mask = np.zeros((25, 25), bool)
    mask[3, 4] = True
    bench.array.pulse(2, mask, 1.05, 200e-9)
    assert record.dose(die.name, (32, 25, 25)).sum() == 1
    assert np.array_equal(record.pulses(die.name)[0].mask, mask)


def test_reads_differ(bench, die):
    g = np.stack([read_conductances(bench.array, 0.1, kernels=[0])[0] for _ in range(3)])
    assert (g.std(axis=0) > 0).any() and 50e-6 < np.median(g) < 200e-6
    np.save({path!r}, g)
"""


def test_the_fixtures_that_we_ship(pytester, tmp_path):
    pytester.makepyfile(INNER.replace("{path!r}", repr(str(tmp_path / "g.npy"))))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    assert np.load(tmp_path / "g.npy").shape == (3, 25, 25)


def test_the_lot_of_the_fixtures_is_the_one_that_was_chosen(pytester):
    """Seed 5 and seed 6 are other dies; a test that relies on one of them must get that one."""
    pytester.makepyfile(
        """
        import numpy as np
        import pytest
        from protocols.pytest_plugin import LotChoice
        from protocols.bench.conductances import read_conductances

        SEEN = []

        @pytest.fixture(params=[5, 6, 5])
        def lot(request):
            return LotChoice(seed=request.param)

        def test_look(bench, die):
            SEEN.append(read_conductances(bench.array, 0.1, averages=4, kernels=[7])[7].ravel())

        def test_compare():
            like = np.corrcoef(SEEN)
            assert like[0, 2] > 0.99 and abs(like[0, 1]) < 0.3
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)
