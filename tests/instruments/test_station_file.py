"""The station file: what is accepted, what is said about a wrong one, and how a station is left."""

import json
import warnings

import pytest
import yaml
from qcodes.station import Station as QcodesStation
from qcodes.utils import NumpyJSONEncoder
from scripted_peers import disconnect

from instruments.board import FramedBoard
from instruments.frames import Opcode
from instruments.roles import ArrayTester, InstrumentError, LinkError, Prober
from instruments.sentio import Sentio
from instruments.station import StationFileError, load_station, write_station


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
            ["instruments.array.type", "instruments.board.FramedBoard"],
        ),
        ({"array": {"type": "instruments.sentio.Sentio"}}, ["does not fill", "ArrayTester", "instruments.board.Fra"]),
        ({"array": {"type": "instruments.board.BoardLink"}}, ["no QCoDeS instrument"]),
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
