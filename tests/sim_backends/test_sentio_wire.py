import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim_backends.bench.wafer_map import WaferMap


@pytest.fixture
def parts(serve):
    with serve() as running:
        yield running


@pytest.fixture
def prober(parts):
    return parts[2]


def test_versions_and_plain_answers(prober):
    prober.socket.sendall(b"*RCS 1\n*LOCAL\n*IDN?\n")
    assert prober.lines.readline().startswith("MPI Corporation,Sentio")
    assert prober.ask("status:get_version") == (0, 0, "Version: 25.2.3")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("bogus", 4),
        ("map:bogus 1,2", 4),
        ("bogus:command", 3),
        ("map:step_die 1", 7),
        ("map:step_die a,b", 5),
        ("map:step_die 40,40,0", 6),
        ("map:step_die 3,3,1", 6),
        ("map:path:get_die 99", 8),
        ("set_stepping_contact_mode Sideways", 6),
        ("enable_chuck_overtravel perhaps", 5),
        ("move_chuck_z Contact, 151", 120),
        ("query_command_status 99", 32),
        ("status:get_soaking_time 85.00", 200),
        ("map:subsite:step_next", 16),
        ("get_chuck_z Sideways", 6),
        ("map:bins:set_bin 300", 8),
    ],
)
def test_error_codes(prober, line, code):
    assert prober.ask(line)[0] == code


def test_route_flags_and_end(prober):
    first = prober.ask("map:step_first_die")
    assert first[0] == 0
    assert prober.ask("map:step_previous_die")[0] == 11
    assert prober.ask("map:step_next_die")[0] == 0
    assert prober.ask("map:step_next_die")[0] == 1024
    where = prober.ask("map:die:get_current_index")
    assert prober.ask("map:step_next_die") == (11, 0, "End of route")
    assert prober.ask("map:die:get_current_index") == where, "the needles stay where they are"


def test_arguments_come_with_and_without_blanks(prober):
    assert prober.ask("map:step_die 3, 3, 0")[2] == "3,3,0"
    assert prober.ask("map:step_die 2,3,0 ")[2] == "2,3,0"
    assert prober.ask("move_chuck_separation ")[2] == "15750.0"
    assert prober.ask("enable_chuck_overtravel True")[0] == 0
    assert prober.ask("enable_chuck_overtravel 0")[0] == 0


def test_next_die_from_beside_the_route_is_refused(prober):
    assert prober.ask("map:step_die 0,3,0")[0] == 0
    assert prober.ask("map:die:get_current_index")[2] == "-1,0,3"
    assert prober.ask("map:step_next_die")[0] == 12
    assert prober.ask("map:step_first_die")[0] == 0


def test_stepping_at_contact_follows_the_mode(parts):
    station, _, prober = parts
    prober.ask("map:step_first_die")
    prober.ask("move_chuck_contact")
    assert station.bench.contact
    prober.ask("map:step_next_die")
    assert not station.bench.contact, "default mode: lower, step, stay down"
    prober.ask("set_stepping_contact_mode LockContact")
    prober.ask("move_chuck_contact")
    where = prober.ask("map:die:get_current_index")
    for line in ("map:step_die 3,3,0", "map:step_first_die", "map:step_next_die", "move_chuck_xy H, 0, 0"):
        assert prober.ask(line)[0] == 38
    assert prober.ask("map:die:get_current_index") == where
    assert station.bench.contact
    prober.ask("set_stepping_contact_mode BackToContact")
    prober.ask("map:step_die 3,3,0")
    assert station.bench.contact


def test_contact_height(parts):
    station, _, prober = parts
    assert prober.ask("get_chuck_site_status Wafer")[2] == "1,1,0,1"
    prober.ask("clear_contact")
    assert prober.ask("get_chuck_site_status Wafer")[2] == "1,0,0,1"
    assert prober.ask("move_chuck_contact")[0] == 23
    assert prober.ask("set_chuck_site_heights Wafer,15900,250,20,50")[2] == "Wafer,15900.0,250.0,20.0,50.0"
    prober.ask("move_chuck_contact")
    assert not station.bench.contact, "a contact height that is too low touches nothing"
    prober.ask("set_chuck_site_heights Wafer,16000,250,20,50")
    prober.ask("move_chuck_contact")
    assert station.bench.contact
    assert prober.ask("get_chuck_site_heights Wafer")[2] == "16000.0,250.0,20.0,50.0"


def test_heights_are_read_back(prober):
    for line, z in (("move_chuck_contact", 16000), ("move_chuck_hover", 15950), ("move_chuck_separation", 15750)):
        assert float(prober.ask(line)[2]) == z
        assert float(prober.ask("get_chuck_z Z")[2]) == z
        assert prober.ask("chuck:get_z Contact")[2] == f"{z - 16000:.1f},Contact"
    prober.ask("set_chuck_overtravel_gap 30")
    prober.ask("enable_chuck_overtravel True")
    assert float(prober.ask("move_chuck_contact")[2]) == 16030
    assert prober.ask("set_chuck_overtravel_gap 151")[0] == 120
    assert prober.ask("chuck:move_z Separation,0")[2] == "15750.0,Zero"


def test_a_die_that_conducts_only_with_overtravel(serve):
    with serve(prober={"touch_heights": {2: 16012.0}}) as (station, _, prober):
        prober.ask("map:step_first_die")
        assert prober.ask("move_chuck_contact")[2] == "16000.0"
        assert not station.bench.contact
        prober.ask("enable_chuck_overtravel True")
        for gap, conducts in ((10, False), (15, True)):
            assert prober.ask(f"set_chuck_overtravel_gap {gap}")[0] == 0
            assert prober.ask("move_chuck_contact")[2] == f"{16000 + gap}.0"
            assert station.bench.contact == conducts
        prober.ask("enable_chuck_overtravel False")
        prober.ask("map:step_next_die")
        assert prober.ask("move_chuck_contact")[2] == "16000.0"
        assert station.bench.contact, "the other dies are as the contact height says"


def test_doors(prober):
    assert prober.ask("get_door_status prober")[2] == "1,0"
    assert prober.ask("set_door_lock prober,True")[0] == 0
    assert [prober.ask(f"get_door_status {door}")[2] for door in ("prober", "loader")] == ["1,1", "1,0"]
    assert prober.ask("get_door_status barn")[0] == 6


def test_needles_beside_the_pads_see_no_die(parts):
    _, board, prober = parts
    prober.ask("map:step_first_die")
    prober.ask("chuck:move_xy Current,500,0")
    assert prober.ask("map:die:get_current_index")[2] == "-1,0,0"
    prober.ask("move_chuck_contact")
    assert abs(board.read(0, 0.1)).max() < 1e-6
    prober.ask("move_chuck_separation")
    assert prober.ask("chuck:move_xy Current,4500,0")[2].endswith("Current")
    assert prober.ask("map:die:get_current_index")[2].endswith(",3,3"), "one pitch to the right"


def test_bins(prober):
    prober.ask("map:step_first_die")
    assert prober.ask("map:bins:get_bin")[2] == "0"
    prober.ask("map:bins:set_bin 2")
    prober.ask("map:bins:set_bin 7, 4, 3")
    assert [prober.ask(f"map:bins:get_bin {site}")[2] for site in ("2, 3", "4, 3", "3, 3")] == ["2", "7", "0"]
    assert prober.ask("map:bins:set_bin_info 7,good,pass,#FF112233")[0] == 0
    assert prober.ask("map:bins:get_bin_info 7")[2] == "7,good,Pass,#FF112233"
    assert prober.ask("map:path:create_from_bins 2,5-9")[2] == "2"
    assert prober.ask("map:path:remove_bins 7")[2] == "1"
    assert prober.ask("map:path:create_from_bins pass")[2] == "1"
    prober.ask("map:step_first_die")
    assert prober.ask("map:die:get_current_index")[2] == "0,4,3"
    prober.ask("map:bins:clear_all")
    assert prober.ask("map:bins:get_bin 4,3")[2] == "0"


def test_map_queries(prober):
    assert prober.ask("map:get_num_dies Present")[2] == "36"
    assert prober.ask("map:get_num_dies Selected")[2] == "3"
    assert prober.ask("map:path:get_die 1")[2] == "3,3"
    assert [prober.ask(f"map:die:get_status {site}")[2] for site in ("3,3", "0,3", "0,0")] == ["1", "2", "3"]
    assert prober.ask("map:get_index_size")[2] == "5000.0,5000.0"
    assert prober.ask("map:get_routing")[2] == "UL,WR"
    prober.ask("map:path:select_dies a")
    assert prober.ask("map:get_num_dies Selected")[2] == "36"


def test_asynchronous_commands(parts):
    station, _, prober = parts
    code, job, _ = prober.ask("start_move_chuck_contact")
    assert (code, job > 0) == (0, True)
    assert prober.ask(f"query_command_status {job}")[0] == 30
    assert not station.bench.contact
    assert prober.ask(f"query_command_status {job}")[0] == 0
    assert station.bench.contact
    job = prober.ask("start_move_chuck_separation")[1]
    prober.ask(f"abort_command {job}")
    assert prober.ask(f"wait_complete {job}, 10")[0] == 31
    assert station.bench.contact
    assert prober.ask("start_bogus")[0] == 4
    assert prober.ask(f"wait_complete {prober.ask('start_initialization')[1]}, 90")[0] == 0


def test_temperature_takes_station_time(parts):
    station, _, prober = parts
    start = station.clock.now
    assert prober.ask("status:get_chuck_temp")[2] == "25.00"
    prober.ask("status:set_chuck_temp 35.00, False")
    assert prober.ask("status:get_chuck_thermo_state")[2] == "heating"
    for _ in range(20):
        if prober.ask("status:get_chuck_thermo_state")[2] == "controlling":
            break
    assert prober.ask("status:get_chuck_temp")[2] == "35.00"
    assert station.clock.now - start >= 20, "10 K at 0.5 K/s"


@given(
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1),
    st.sampled_from(["ul", "ur", "ll", "lr"]),
    st.sampled_from(["r", "c", "wr", "wc"]),
)
def test_every_route_visits_every_selected_die_once(sites, start, priority):
    wafer = WaferMap(sorted(sites), sites)
    wafer.start_point, wafer.priority = start, priority
    wafer.plan_route()
    assert sorted(wafer.route) == sorted(sites)
    column = (min if start[1] == "l" else max)(c for c, _ in sites)
    row = (max if start[0] == "u" else min)(r for _, r in sites)
    assert wafer.route[0][1] == row if priority.endswith("r") else wafer.route[0][0] == column


def test_serpentine_turns_round():
    sites = [(c, r) for c in range(3) for r in range(2)]
    wafer = WaferMap(sites, sites)
    assert wafer.route == [(0, 1), (1, 1), (2, 1), (2, 0), (1, 0), (0, 0)]
