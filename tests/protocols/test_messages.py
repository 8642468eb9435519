"""What a user can get wrong: one message that says what to change, a status that is not 0, and nothing has moved."""

import socket

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from analysis.record.record import Record

pytestmark = pytest.mark.slow


@pytest.fixture
def refused(xbar, served, tmp_path):
    """Runs a command that must fail: with these words, without a traceback, with nothing moved at the station."""

    def run(*arguments, says):
        done = xbar(*arguments)
        assert done.status not in (0, None)
        assert "Traceback" not in done.said
        flat = " ".join(done.said.replace("│", " ").split())
        for words in [says] if isinstance(says, str) else says:
            assert words in flat
        assert served.new_actions() == []
        for folder in (each.parent for each in tmp_path.rglob("record.sqlite")):
            with Record.open(folder, create=False) as record:
                assert record.events("enter") == [] and record.runs()[-1]["status"] == "failed"
        return done

    return run


@pytest.fixture
def run_there(refused, served, tmp_path):
    """`refused` for `xbar run` of a protocol at the station of the module."""

    def run(name, *options, says):
        few = () if "--dies" in options else ("--dies", 1)  # so that what is not refused ends soon
        refused("run", name, "--station", served.file, "--out", tmp_path / "lot", *few, *options, says=says)

    return run


@pytest.fixture
def weights(tmp_path, rng):
    """Writes a safetensors file of one small binary layer, changed as a test wants."""

    def write(change=lambda w: w):
        w = change(rng.choice(np.array([-1.0, 1.0], np.float32), (10, 20)))
        save_file({"fc.weight": w}, str(tmp_path / "net.safetensors"))
        return tmp_path / "net.safetensors"

    return write


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def schedule(xbar, weights, tmp_path):
    """A schedule file of a small network."""
    done = xbar("map", weights(), "-o", tmp_path / "net.h5")
    assert done.status == 0, done.said
    return tmp_path / "net.h5"


# the network


def test_a_network_that_does_not_fit(run_there):
    run_there("mtj-mnist", "--hidden", 500, says=["20000", "cells"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--hidden", 0, "hidden"),
        ("--inputs", 0, "inputs"),
        ("--inputs", 400, "196"),
        ("--epochs", 0, "epochs"),
        ("--images", 0, "0 test images asked for; there are 1 to"),
        ("--images", 10**6, "there are 1 to"),
    ],
)
def test_a_number_out_of_range(run_there, option, value, says):
    run_there("mtj-mnist", option, value, says=says)


def test_weights_that_are_not_numbers(refused, weights, tmp_path):
    def spoil(w):
        w[3, 4] = np.nan
        return w

    refused("map", weights(spoil), "-o", tmp_path / "s.h5", says=["fc.weight", "NaN"])
    assert not (tmp_path / "s.h5").exists()


def test_weights_that_are_not_binary(refused, weights, tmp_path):
    refused("map", weights(lambda w: w * np.float32([[2.0]] + [[1.0]] * 9)), "-o", tmp_path / "s.h5",
            says=["fc.weight", "--binarise"])  # fmt: skip


def test_a_network_that_does_not_fit_on_any_die(refused, weights, tmp_path):
    big = weights(lambda w: np.ones((200, 200), np.float32))
    refused("map", big, "-o", tmp_path / "s.h5", says=["80000", "20000"])


def test_words_of_map_that_do_not_exist(refused, weights, tmp_path):
    file = weights()
    refused("map", file, "-o", tmp_path / "s.h5", "--coding", "octal", says="binary, ternary or analog")
    refused("map", file, "-o", tmp_path / "s.h5", "--geometry", "mtj-21k", says="mtj-20k")
    refused("map", file, "-o", tmp_path / "s.h5", "--die", "c3r2", says="FOLDER:DIE")
    refused("map", file, "-o", tmp_path / "s.h5", "--die", f"{tmp_path}/none:c3r2", says="no record in")
    refused("map", tmp_path / "none.safetensors", "-o", tmp_path / "s.h5", says="no weights file")
    refused("map", file, "-o", tmp_path / "no_folder" / "s.h5", says="no_folder")


# the station


def _edited(served, tmp_path, edit):
    content = yaml.safe_load(served.file.read_text(encoding="utf-8"))
    edit(content["instruments"])
    (tmp_path / "edited.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path / "edited.yaml"


@pytest.fixture
def with_station(refused, served, tmp_path):
    """`refused` for a run with an edited station file."""

    def run(edit, says):
        file = _edited(served, tmp_path, edit)
        refused("run", "mtj-mnist", "--dies", 1, "--station", file, "--out", tmp_path / "lot", says=says)

    return run


def test_a_station_file_with_a_wrong_key(with_station):
    with_station(
        lambda i: i["array"].update(adress="x"), says=["edited.yaml", "instruments.array.adress", "unknown key"]
    )


def test_a_setting_that_the_driver_does_not_have(with_station):
    with_station(lambda i: i["array"].update(init={"baud": 9600}), says=["instruments.array.init.baud", "baudrate"])


def test_an_unknown_instrument_type(with_station):
    says = ["instruments.prober.type", "instruments.drivers.sentio.Prober", "instruments.drivers.sentio.Sentio"]
    with_station(lambda i: i["prober"].update(type="instruments.drivers.sentio.Prober"), says=says)


def test_a_port_nobody_listens_on(with_station):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    says = [str(port), "Is the instrument on", "xbar sim"]
    with_station(lambda i: i["array"].update(address=f"socket://127.0.0.1:{port}"), says=says)
    with_station(lambda i: i["prober"].update(address=f"TCPIP::127.0.0.1::{port}::SOCKET"), says=says)


def test_no_station_file(refused, tmp_path):
    refused("run", "mtj-mnist", "--station", tmp_path / "none.yaml", "--out", tmp_path / "lot", says="none.yaml")


def test_a_simulated_station_of_an_unknown_lot(refused, tmp_path):
    refused("run", "mtj-mnist", "--lot", "mjt", "--out", tmp_path / "lot", says=["'mjt'", "mtj"])
    refused("sim", "mjt", "--write", tmp_path / "s.yaml", says=["'mjt'", "mtj"])


@pytest.mark.parametrize("value", ["5V", "-0.31", "0", "1mV"])
def test_a_read_voltage_that_the_board_refuses(run_there, schedule, value):
    says = ["v_read", "0.3"]
    run_there("mtj-mnist", "--set", f"v_read={value}", says=says)
    run_there("program", "--set", f"schedule={schedule}", "--set", f"v_read={value}", says=says)


def test_pulses_beyond_the_limit_of_the_station(with_station):
    """A user who limits the pulses of the board must not find out when a die has been half written."""
    with_station(lambda i: i["array"].update(init={"pulse_limit": "900 mV"}), says=["1.25 V", "0.9 V", "pulse"])


# the command


def test_a_protocol_that_does_not_exist(refused, tmp_path):
    refused(
        "run", "mtj-minst", "--out", tmp_path / "lot", says=["'mtj-minst'", "mtj-mnist", "my_script.py:my_protocol"]
    )
    refused("run", f"{tmp_path / 'none.py'}:p", "--out", tmp_path / "lot", says="none.py")


def test_a_function_that_is_no_protocol(refused, tmp_path):
    (tmp_path / "mine.py").write_text("def noise(run):\n    pass\n", encoding="utf-8")
    refused("run", f"{tmp_path / 'mine.py'}:noise", "--out", tmp_path / "lot", says=["noise", "@protocol"])
    refused("run", f"{tmp_path / 'mine.py'}:nose", "--out", tmp_path / "lot", says="no function 'nose'")


def test_a_parameter_that_does_not_exist(run_there):
    run_there("mtj-mnist", "--image", 20, says=["no parameter 'image'", "images=1000"])
    run_there("mtj-mnist", "--set", "v_raed=100mV", says=["no parameter 'v_raed'", "v_read=0.1"])


def test_a_value_that_cannot_be_read(run_there):
    run_there("mtj-mnist", "--images", "many", says=["images: 'many'", "whole number"])
    run_there("mtj-mnist", "--images", "20.5", says="whole number")
    run_there("mtj-mnist", "--set", "v_read=much", says=["v_read: 'much'", "100 mV"])
    run_there("mtj-mnist", "--set", "v_read=nan", says=["v_read: 'nan'", "100 mV"])
    run_there("mtj-mnist", "--set", "v_read", says="name=value")
    run_there("mtj-mnist", "--set", "v_read=100 mA", says=["v_read", "100 mA", "expected 'V'"])


def test_an_option_without_value_and_a_stray_word(run_there):
    run_there("mtj-mnist", "--images", says="--images needs a value")
    run_there("mtj-mnist", "twenty", says="'twenty'")
    run_there("mtj-mnist", "--dies", 0, says="dies")


@pytest.fixture
def listing(tmp_path):
    """A protocol that only lists its dies."""
    text = "from protocols.sequencer.run import protocol\n\n@protocol\ndef listing(run):\n    list(run.dies())\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    return f"{tmp_path / 'mine.py'}:listing"


def test_dies_verdicts_and_bins_that_do_not_exist(run_there, listing):
    """All the words of it are in test_selection; this is that the command passes them on and nothing moves."""
    run_there(listing, "--only", "c2r6,c9r9", says=["--only c9r9: no such die; the run has 1 die: c2r6"])
    run_there(listing, "--golden", "c9r9", says=["--golden c9r9: no such die", "36 dies"])
    run_there(listing, "--retest", "fail", says="no die has verdict fail; there are no verdicts yet")
    run_there(listing, "--retest", "bad", says=["--retest bad", "pass, fail, inconclusive"])
    run_there(listing, "--retest-bin", "two", says="bins are whole numbers")
    run_there(listing, "--stop-after", "-1", says="stop-after")


def test_a_lease_that_is_no_time(run_there, listing):
    run_there(listing, "--lease", "0", says="not above 0 s")
    run_there(listing, "--lease", "5 V", says="--lease")


def test_asking_a_run_that_is_not_there(xbar, tmp_path):
    for command in ("pause", "abort", "resume", "status"):
        done = xbar(command, tmp_path)
        assert done.status == 1 and "Traceback" not in done.said
        assert ("no run of" if command in ("pause", "abort") else "no record in") in done.said
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_without_default_that_is_left_out(run_there):
    run_there("program", says="--set schedule=VALUE")


def test_a_folder_without_mnist(run_there, tmp_path):
    run_there("mtj-mnist", "--mnist", tmp_path / "none", says=["none", "train-images-idx3-ubyte"])
    (tmp_path / "empty").mkdir()
    run_there("mtj-mnist", "--mnist", tmp_path / "empty", says=["empty", "four MNIST files"])


def test_a_folder_that_cannot_be_written(refused, served, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    out = tmp_path / "file" / "lot"
    refused("run", "mtj-mnist", "--station", served.file, "--out", out, says=["cannot write", "--out"])
    refused("run", "mtj-mnist", "--station", served.file, "--out", tmp_path / "a", "--json", out / "x.json",
            says=["cannot write", "--json"])  # fmt: skip


def test_a_record_that_is_not_one(xbar, served, tmp_path):
    (tmp_path / "record.sqlite").write_bytes(b"not a database" * 100)
    done = xbar("run", "mtj-mnist", "--station", served.file, "--out", tmp_path)
    assert done.status == 1 and "choose another folder with --out" in done.said and "Traceback" not in done.said
    assert served.new_actions() == []


def test_a_schedule_that_is_none(run_there, tmp_path):
    (tmp_path / "none.h5").write_text("no", encoding="utf-8")
    run_there("program", "--set", f"schedule={tmp_path / 'none.h5'}", says="not a sound write schedule")
    run_there("program", "--set", f"schedule={tmp_path / 'missing.h5'}", says="no write schedule")


def test_results_of_nothing(refused, tmp_path):
    refused("report", tmp_path, says=["no record in", "record.sqlite"])
    refused("score", tmp_path, tmp_path / "truth.npz", says="no record in")
    assert not (tmp_path / "record.sqlite").exists()
