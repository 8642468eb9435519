"""The station file: what is accepted, what is said about a wrong one, and how a station is left."""

import json
import os
import subprocess
import sys
import warnings

import pytest
import yaml
from pydantic import ValidationError
from qcodes.instrument import Instrument
from qcodes.station import Station as QcodesStation
from qcodes.utils import NumpyJSONEncoder
from scripted_peers import disconnect

from instruments import station as station_module
from instruments.board_protocol.frames import Opcode
from instruments.drivers.board import FramedBoard
from instruments.drivers.sentio import Sentio
from instruments.roles.interfaces import ArrayTester, InstrumentError, LinkError, Prober
from instruments.station import StationFileError, check_station, load_station, understood, write_station


@pytest.fixture
def file(tmp_path, peer_sentio, peer_board):
    return write_station(tmp_path / "lab.yaml", peer_sentio.address, peer_board.address)


def change(file, **changes):
    """Rewrite the file; `None` removes a key of an instrument."""
    content = yaml.safe_load(file.read_text())
    for name, keys in changes.items():
        entry = content["instruments"].setdefault(name, {})
        entry.update(keys)
        content["instruments"][name] = {key: value for key, value in entry.items() if value is not None}
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_written_station_loads(file):
    with load_station(file) as station:
        assert isinstance(station.prober, Sentio) and isinstance(station.prober, Prober)
        assert isinstance(station.array, FramedBoard) and isinstance(station.array, ArrayTester)
        assert (
            station.snapshot(update=False)["config"]["instruments"]["array"]["address"]
            == station.array._link.port.address
        )


def test_loading_moves_and_switches_nothing(file, peer_sentio, peer_board):
    with load_station(file):
        assert peer_sentio.lines == ["*RCS 1", "status:get_version"]
        assert {frame.opcode for frame in peer_board.frames} <= {Opcode.IDN, Opcode.CAPS}


def test_the_file_is_one_of_qcodes_own(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        station = QcodesStation(config_file=str(file), default=False, update_snapshot=False)
        prober = station.load_instrument("prober")
    assert isinstance(prober, Sentio)
    station.close_all_registered_instruments()


def test_quantities(file):
    change(
        file, array={"init": {"timeout": "300 ms", "pulse_limit": "900 mV"}}, prober={"init": {"z_tolerance": "2 um"}}
    )
    with load_station(file) as station:
        assert station.array.capabilities().v_max == pytest.approx(0.9)
        assert station.array._timeout == pytest.approx(0.3)
        assert station.prober._z_tolerance == pytest.approx(2e-6)


@pytest.mark.parametrize(
    ("name", "init", "says"),
    [
        ("array", 'pulse_limit: "0,9 V"', "write a point for a decimal comma"),
        ("array", "pulse_limit: .nan", "no quantity"),
        ("array", "pulse_limit: -.inf", "no quantity"),
        ("array", "pulse_limit: 1.0e999", "beyond what a number can be"),
        ("array", "pulse_limit: yes", "True is no quantity"),
        ("array", "pulse_limit: 900", "did you mean 900 mV"),
        ("array", "pulse_limit: 0", "not above 0 V"),
        ("array", "pulse_limit: 1_0", "no quantity"),
        ("array", "pulse_limit: 0x1", "expected 'V'"),
        ("array", "pulse_limit: !!float .nan", "no plain YAML"),
        ("array", "pulse_limit: [0.9]", "no quantity"),
        ("array", "pulse_limit: 2026-11-29", "no quantity"),
        ("array", "pulse_limit: 0.9 V, pulse_limit: 9 V", "stands twice"),
        ("array", "timeout: 1:30", "expected 's'"),
        ("array", "timeout: 2 h", "expected 's'"),
        ("array", "baudrate: 9_600", "not a whole number"),
        ("array", "baudrate: yes", "not a whole number"),
        ("array", "baudrate: 9600.0", "not a whole number"),
        ("prober", 'overtravel_max: "0,05 mm"', "write a point for a decimal comma"),
        ("prober", "overtravel_max: 50", "more than 1 mm, which is not plausible here; did you mean 50 um?"),
        ("prober", "overtravel_max: -50 um", "less than 0 m"),
        ("prober", "z_tolerance: 1", "did you mean 1 um"),
        ("prober", "temperature_max: .inf", "no quantity"),
        ("prober", "temperature_max: 398 K", "expected '°C'"),
        ("prober", "move_timeout: .inf", "no quantity"),
    ],
)  # fmt: skip
def test_a_limit_that_is_a_slip_is_refused_and_never_read_as_something_else(file, name, init, says):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    content["instruments"][name]["init"] = "INIT"
    file.write_text(yaml.safe_dump(content).replace("INIT", f"{{{init}}}"), encoding="utf-8")
    with pytest.raises(StationFileError) as error:
        check_station(file)
    assert says in str(error.value) and str(file) in str(error.value)


def test_a_bare_number_of_a_foreign_driver_is_a_finite_one():
    """pydantic alone reads ``yes`` as 1 and takes infinity."""
    model = station_module._settings_model(Foreign)
    assert model.model_validate({"level": "0.5", "ranges": [1, 2.5]}).model_dump() == {
        "level": 0.5, "count": 3, "ranges": [1.0, 2.5], "largest": None,
    }  # fmt: skip
    for wrong in ({"level": True}, {"level": float("inf")}, {"level": "0,5"}, {"level": "5 mV"}, {"count": True},
                  {"level": 1, "count": 2.0}, {"level": 1, "ranges": [float("nan")]},
                  {"level": 1, "largest": float("nan")}):  # fmt: skip
        with pytest.raises(ValidationError):
            model.model_validate(wrong)


class Foreign(Instrument):
    """A driver that says nothing of units."""

    def __init__(self, name: str, *, level: float, count: int = 3, ranges: list[float] | tuple[float, ...] = (),
                 largest: float | None = None) -> None:  # fmt: skip
        super().__init__(name)


def test_a_file_is_read_alike_whatever_the_locale(file, tmp_path):
    """Also by QCoDeS, which opens its files in the locale's encoding."""
    text = file.read_text(encoding="utf-8") + "# Größter Puls: 900 mV; Überhub ≤ 50 µm\n"
    file = tmp_path / "Prüfstand.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    script = (
        "import sys, locale; from pathlib import Path; from instruments import station as s\n"
        "assert locale.getencoding() != 'utf-8', locale.getencoding()\n"
        "path = Path(sys.argv[1]); print(sorted(s.check_station(path)), len(s._configured(path).config['instruments']))"
    )
    # the name in the locale's own way: what is tried is the content
    plain = file.rename(tmp_path / "bench.yaml")
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", script, str(plain)], capture_output=True, text=True, check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "['array', 'prober'] 2\n", done.stderr


def test_a_snapshot_can_be_kept_as_json(file):
    with load_station(file) as station:
        kept = json.loads(json.dumps(station.snapshot(update=True), cls=NumpyJSONEncoder))
    array = kept["instruments"]["array"]
    assert array["metadata"]["capabilities"]["rows"] == 3
    assert array["parameters"]["IDN"]["value"]["serial"] == "007"
    assert kept["instruments"]["prober"]["parameters"]["temperature"]["value"] == 25.4


def test_a_station_may_have_its_own_clock(tmp_path, peer_sentio, peer_board):
    time_file = tmp_path / "time.json"
    with load_station(write_station(tmp_path / "lab.yaml", peer_sentio.address, peer_board.address)) as station:
        assert station.elapsed() is None
    file = write_station(tmp_path / "lab.yaml", peer_sentio.address, peer_board.address, clock=time_file)
    with load_station(file) as station:
        assert station.elapsed() is None
        time_file.write_text('{"station_time_s": 12.5}')
        assert station.elapsed() == 12.5


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"array": {"adress": "COM3"}}, ["instruments.array.adress", "unknown key", "address"]),
        ({"array": {"init": {"baud": 9600}}}, ["instruments.array.init.baud", "unknown key", "baudrate"]),
        ({"array": {"init": {"timeout": "3 V"}}}, ["instruments.array.init.timeout", "'V'", "'s'"]),
        ({"array": {"init": {"timeout": "soon"}}}, ["instruments.array.init.timeout", "no quantity"]),
        ({"array": {"address": None}}, ["instruments.array.init.address", "required"]),
        (
            {"array": {"type": "instruments.bord.FramedBoard"}},
            ["instruments.array.type", "instruments.drivers.board.FramedBoard"],
        ),
        (
            {"array": {"type": "instruments.drivers.sentio.Sentio"}},
            ["does not fill", "ArrayTester", "instruments.drivers.board.Fra"],
        ),
        ({"array": {"type": "instruments.drivers.board.BoardLink"}}, ["no QCoDeS instrument"]),
        ({"array": {"type": None}}, ["instruments.array.type", "required"]),
    ],
)
def test_a_wrong_key_is_named_before_anything_is_connected(file, peer_sentio, peer_board, changes, says):
    change(file, **changes)
    with pytest.raises(StationFileError) as error:
        load_station(file)
    for each in [str(file), *says]:
        assert each in str(error.value)
    assert peer_sentio.clients == peer_board.clients == 0


def test_an_unknown_section(file):
    file.write_text(file.read_text() + "roles: {prober: array}\n")
    with pytest.raises(StationFileError, match=r"roles: unknown key; allowed: instruments"):
        load_station(file)


def test_a_missing_role(file):
    file.write_text(file.read_text().replace("array:", "board:"))
    with pytest.raises(StationFileError, match=r"nothing is called array; .*this file has prober, board"):
        load_station(file)


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n"])
def test_no_station_at_all(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(StationFileError, match=r"odd\.yaml"):
        load_station(tmp_path / "odd.yaml")
    with pytest.raises(StationFileError, match="cannot be read"):
        load_station(tmp_path / "none.yaml")


def test_what_was_connected_is_closed_when_the_next_is_missing(file, peer_sentio):
    change(file, array={"address": "socket://127.0.0.1:9"})
    with pytest.raises(LinkError, match=r"127\.0\.0\.1:9"):
        load_station(file)
    assert not Sentio.exist("prober")


def test_closing_grounds_lifts_and_closes(file, peer_sentio, peer_board):
    station = load_station(file)
    station.prober.first_die()
    station.prober.contact()
    station.close()
    assert peer_board.frames[-1].opcode == Opcode.IDLE and peer_board.frames[-1].payload == b"\x02"
    assert not peer_board.latched
    assert peer_sentio.z == 15700.0
    assert not Sentio.exist("prober") and not FramedBoard.exist("array")


def test_making_safe_latches(file, peer_board, peer_sentio):
    with load_station(file) as station:
        station.prober.contact()
        station.safe()
        assert peer_board.latched and peer_sentio.z == 15700.0


def test_a_board_that_refuses_to_rest_is_stopped(file, peer_board):
    station = load_station(file)
    peer_board.faults[Opcode.IDLE] = [disconnect] * 4
    station.close()
    assert peer_board.latched


def test_one_fault_keeps_nothing_else_from_being_done(file, peer_sentio, peer_board):
    station = load_station(file)
    station.prober.contact()
    peer_board.stop()
    with pytest.raises(InstrumentError, match=r"make a source safe failed.*by hand"):
        station.close()
    assert peer_sentio.z == 15700.0
    assert not Sentio.exist("prober") and not FramedBoard.exist("array")


def test_an_error_of_the_run_is_not_hidden_by_one_of_closing(file, peer_board):
    with pytest.raises(ZeroDivisionError) as error, load_station(file):
        peer_board.stop()
        raise ZeroDivisionError
    assert "by hand" in error.value.__notes__[0]


def test_what_was_understood_of_a_file_is_told_with_units(file):
    change(file, array={"init": {"pulse_limit": 0.9}}, prober={"init": {"overtravel_max": "50 um"}})
    prober, array = sorted(understood(file), reverse=True)
    assert prober.startswith("prober: ") and "overtravel_max 50 um" in prober.replace("µ", "u")
    assert "temperature_max 125 °C" in prober and "timeout 5 s" in prober
    assert array == "array: timeout 5 s, pulse_limit 900 mV"
