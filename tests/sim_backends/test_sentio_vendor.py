"""The maker's own client, unmodified, against the virtual prober."""

from contextlib import contextmanager

import pytest

CommunicatorTcpIp = pytest.importorskip("sentio_prober_control.Communication.CommunicatorTcpIp").CommunicatorTcpIp
from sentio_prober_control.Sentio import Enumerations as E  # noqa: E402
from sentio_prober_control.Sentio.ProberBase import ProberException  # noqa: E402
from sentio_prober_control.Sentio.ProberSentio import SentioProber  # noqa: E402

from sim_backends.station import Station, StationConfig  # noqa: E402


@contextmanager
def connected(**config):
    with Station(StationConfig(seed=7, dies=5, **config)) as station:
        _, host, port, _ = station.addresses()["prober"].split("::")
        communicator = CommunicatorTcpIp.create(f"{host}:{port}")
        yield station, SentioProber(communicator)
        communicator.disconnect()


@pytest.fixture
def vendor():
    with connected() as parts:
        yield parts


def test_stepping_through_the_lot(vendor):
    station, prober = vendor
    prober.initialize_if_needed()
    visited = [prober.map.step_first_die()]
    while not prober.map.end_of_route():
        assert prober.move_chuck_contact() == 16000.0
        assert station.bench.contact
        assert prober.map.die.get_current_index() == (len(visited) - 1, *visited[-1][:2])
        assert prober.move_chuck_separation() == 15750.0
        assert not station.bench.contact
        visited.append(prober.map.step_next_die())
    assert len(set(visited)) == 5 == prober.map.get_num_dies(E.DieNumber.Selected)
    assert [prober.map.path.get_die(number) for number in range(5)] == [site[:2] for site in visited]
    with pytest.raises(ProberException) as error:
        prober.map.step_next_die()
    assert error.value.error() == E.RemoteCommandError.EndOfRoute


def test_stepping_to_a_die_and_bins(vendor):
    _, prober = vendor
    assert prober.map.step_die(3, 3) == (3, 3, 0)
    assert prober.map.die.get_status(3, 3) == 1
    prober.map.bins.set_bin(4)
    prober.map.bins.set_bin(2, 2, 3)
    assert prober.map.bins.get_bin(3, 3) == 4
    assert prober.map.bins.get_bin(2, 3) == 2
    assert prober.map.path.create_from_bin(4) == 1
    prober.map.path.select_dies(E.TestSelection.All)
    prober.map.step_first_die()
    assert len(prober.map.bin_step_next_die(1)) == 3
    with pytest.raises(ProberException):
        prober.map.step_die(40, 40)


def test_heights_modes_and_positions(vendor):
    _, prober = vendor
    assert prober.get_chuck_site_height(E.ChuckSite.Wafer) == (16000.0, 250.0, 20.0, 50.0)
    assert prober.get_chuck_site_status(E.ChuckSite.Wafer) == (True, True, False, True)
    prober.set_chuck_site_height(E.ChuckSite.Wafer, 16000, 200, 30, 40)
    prober.enable_chuck_overtravel(True)
    prober.set_chuck_overtravel_gap(25)
    assert prober.move_chuck_contact() == 16025.0
    assert prober.get_chuck_z(E.ZReference.Contact) == 25.0
    assert prober.chuck.get_z(E.ZReference.Contact) == (25.0, E.ZReference.Contact)
    prober.set_stepping_contact_mode(E.SteppingContactMode.LockContact)
    with pytest.raises(ProberException) as error:
        prober.map.step_first_die()
    assert error.value.error() == E.RemoteCommandError.SteppingWithWrongZPosition
    prober.move_chuck_separation()
    x, y = prober.move_chuck_xy(E.XyReference.Home, 5000, -5000)
    assert (x, y) == prober.get_chuck_xy(E.ChuckSite.Wafer, E.XyReference.Home)
    assert prober.chuck.get_xy(E.XyReference.Home)[:2] == (5000.0, -5000.0)
    assert prober.map.die.get_current_index()[1:] == (4, 2)
    prober.move_chuck_home()
    assert prober.setup.contact_counter.get() == 1


def test_status(vendor):
    _, prober = vendor
    assert prober.status.get_chuck_temp() == 25.0
    prober.status.set_chuck_temp(30.0)
    assert prober.status.get_chuck_temp_setpoint() == 30.0
    assert prober.status.get_chuck_thermo_state() is E.ThermoChuckState.Heating
    assert prober.map.get_index_size() == (5000.0, 5000.0)
    assert prober.map.get_axis_orient() is E.AxisOrient.UpRight
    assert prober.map.get_routing() == (E.RoutingStartPoint.UpperLeft, E.RoutingPriority.RowBiDir)
    assert prober.map.get_diameter() == 200
    assert prober.map.subsites.get_num() == 1
    prober.clear_contact()
    with pytest.raises(ProberException) as error:
        prober.move_chuck_contact()
    assert error.value.error() == E.RemoteCommandError.ContactHeightNotSet
    response = prober.start_initialization()
    assert prober.wait_complete(response).ok()


def test_doors(vendor):
    _, prober = vendor
    assert prober.get_door_status("prober") == (True, False)
    prober.set_door_lock("prober", True)
    assert prober.get_door_status("prober") == (True, True)


def test_the_client_meets_faults():
    faults = (
        {"kind": "wrong_die", "matching": "map:die:get_current_index"},
        {"kind": "busy", "where": "prober", "matching": "move_chuck_contact"},
        {"kind": "door_open", "matching": "get_door_status"},
    )
    with connected(faults=faults) as (station, prober):
        asked = prober.map.step_first_die()
        assert prober.map.die.get_current_index()[1:] != asked[:2] == prober.map.die.get_current_index()[1:]
        with pytest.raises(ProberException) as error:
            prober.move_chuck_contact()
        assert error.value.error() == 12
        assert prober.move_chuck_contact() == 16000.0
        prober.move_chuck_separation()
        assert prober.get_door_status("prober") == (False, False)
        with pytest.raises(ProberException) as error:
            prober.move_chuck_contact()
        assert error.value.error() == 60
        assert station.log.counts["fault"] == 3
