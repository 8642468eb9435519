"""`xbar sim`: a simulated station in the foreground, for clients in other terminals."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.record.own_files import check_output, is_clock, is_physical_log, is_station, is_truth
from protocols.sequencer.open_station import write_simulated_station
from protocols.terminal.console import command, say

if TYPE_CHECKING:
    from sim_backends.station import StationConfig


def serve(
    station: str,
    write: Path,
    *,
    seed: int | None,
    truth: Path | None,
    log: Path | None,
    state: Path | None,
    realtime: bool,
) -> None:
    """Serve a station file (or a lot by name) until Ctrl-C; writes the station file that clients take.

    Raises
    ------
    StationError
        If the file has a wrong key, or a port is taken.
    """
    from sim_backends.array.dies.lot import is_lot_file
    from sim_backends.bench.physical_log import summary_path
    from sim_backends.station import Station, StationConfig, StationError, load_station, wait_for_end

    of_station = Path(station).is_file() and not is_lot_file(Path(station))
    config = load_station(Path(station)) if of_station else StationConfig(lot=station)
    given: dict[str, Any] = {"seed": seed, "truth": truth, "log": log, "state": state, "realtime": realtime or None}
    config = StationConfig.model_validate(
        config.model_dump(exclude_unset=True) | {k: v for k, v in given.items() if v is not None}
    )
    _check_files(config, write)
    try:
        serving = Station(config)
    except OSError as error:
        where = (
            "another --state, --log or --truth" if error.filename else f"other ports in {station}, or 0 for free ones"
        )
        raise StationError(f"cannot serve: {error}; choose {where}") from error
    with serving:
        addresses = serving.addresses()
        clock = summary_path(config.log) if config.log else None
        try:
            write_simulated_station(write, addresses, clock)
        except OSError as error:
            raise StationError(f"cannot write {write}: {error.strerror}; choose another --write") from error
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C counts from the first word on
            say(f"lot {addresses['lot']}, seed {addresses['seed']}")
            for name in ("prober", "board", "smu", "pulser", "matrix"):
                if name in addresses:
                    say(f"{name:7} {addresses[name]}")
            if "magnet" in addresses:
                say(f"magnet  {addresses['magnet']} (docs/magnet.md: its entry in {write})")
            say(f"clients: {command('xbar', 'run', 'PROTOCOL', '--station', write)}\nCtrl-C ends the station")
            wait_for_end(forever=True)
    if config.truth:
        say(f"truth: {config.truth}")


def _check_files(config: StationConfig, write: Path) -> None:
    """Refuse to put what is served in the place of files of somebody else.

    Raises
    ------
    NotOursError
        Naming the file.
    """
    from sim_backends.bench.physical_log import summary_path

    check_output(write, "--write", is_station)
    if config.truth:
        check_output(config.truth, "--truth", is_truth)
    if config.log:
        check_output(config.log, "--log", is_physical_log)
        check_output(summary_path(config.log), "--log", is_clock)
