import pytest
from running_station import running, varied, varied_tio2

from sim_backends.array.dies.kinds import load_any_lot
from sim_backends.array.dies.lot import load_lot


@pytest.fixture(scope="session")
def lot():
    return load_lot("mtj")


@pytest.fixture(scope="session")
def ideal_lot(lot):
    """Devices without spread, defects or line resistance."""
    return varied(
        lot,
        devices={"r_p_spread": 0, "tmr_spread": 0, "v_breakdown_spread": 0},
        switching={"v_critical_spread": 0, "delta_spread": 0},
        defects={"rate_median": 0, "dead_rows": 0, "dead_columns": 0, "dead_gates": 0, "dead_rows_shared": 0},
        lines={"r_row": 0, "r_column": 0, "r_contact": 0},
    )


@pytest.fixture
def serve():
    """`with serve(**config) as (station, board, prober)`."""
    return running


@pytest.fixture
def vary():
    """`vary(lot, section={...})`: a lot with some entries changed."""
    return varied


@pytest.fixture(scope="session")
def tio2_lot():
    return load_any_lot("tio2-8x8")


@pytest.fixture(scope="session")
def sound_lot(tio2_lot):
    """Passive dies without any defect."""
    shares = ("stuck_lrs", "stuck_hrs", "cell_open", "cell_short", "row_open", "column_open", "row_lrs", "row_hrs")
    return varied_tio2(tio2_lot, defects=dict.fromkeys((*shares, "row_short", "rows_tied", "alternating"), 0))


@pytest.fixture(scope="session")
def vary_tio2():
    """`vary_tio2(lot, section={...})`: a lot of passive dies with some entries changed."""
    return varied_tio2
