"""The `xbar` command. Heavy imports wait until a command needs them, so that `xbar --help` is quick."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

#: Errors defined in these packages are written for the user; others are faults of the program.
ROOMS = ("instruments", "sim_backends", "mapping", "protocols", "analysis")

app = typer.Typer(
    name="xbar",
    help="Program and read emerging-memory crossbar dies at a probe station, real or simulated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path | None, typer.Option(help="Folder for record and report; the same folder goes on where it ended.")]
StationFile = Annotated[
    Path | None, typer.Option(help="Station file of a bench; without it a simulated one is started.")
]
LotName = Annotated[str, typer.Option(help="Lot of the simulated station: a name or a lot file.")]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Protocol: mtj-mnist, program, or my_script.py:my_protocol")],
    station: StationFile = None,
    lot: LotName = "mtj",
    dies: Annotated[int | None, typer.Option(help="Only the first so many dies of the route.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of training and of the simulated lot.", min=0)] = 0,
    out: Out = None,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter of the protocol, as name=value; units are understood.")
    ] = None,
) -> None:
    """Run a protocol over a lot; any parameter of the protocol is also an option (--images 200)."""
    from protocols.catalogue import find, name_in_record
    from protocols.parameters import parse
    from protocols.show import run_and_show

    function = find(name)
    parameters = parse(function, _assignments(settings or []) | _options(context.args))
    if json is not None:
        _check_writable(json)
    folder = out or Path("runs") / f"{Path(name.split(':')[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_and_show(function, name_in_record(name), parameters, folder, station, lot, seed, dies, json)


@app.command()
def sim(
    station: Annotated[str, typer.Argument(help="A simulated station: a station file, or the name of a lot (mtj).")],
    seed: Annotated[int | None, typer.Option(help="Seed of the lot, instead of the file's.", min=0)] = None,
    truth: Annotated[Path | None, typer.Option(help="File for what the dies really are, for xbar score.")] = None,
    log: Annotated[Path | None, typer.Option(help="File for everything that physically happened.")] = None,
    state: Annotated[Path | None, typer.Option(help="Folder in which the dies keep their states.")] = None,
    realtime: Annotated[bool, typer.Option(help="Take the time that hardware would.")] = False,
    write: Annotated[Path, typer.Option(help="Station file to write for the clients.")] = Path("station.yaml"),
) -> None:
    """Serve a simulated station on loopback ports until Ctrl-C; any client of its instruments may connect."""
    from protocols.serve import serve

    serve(station, write, seed=seed, truth=truth, log=log, state=state, realtime=realtime)


@app.command(name="map")
def map_(
    weights: Annotated[Path, typer.Argument(help="State dict: .safetensors, .pt (weights only) or .npz")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Schedule file to write.")],
    geometry: Annotated[str, typer.Option(help="Kind of die: a name (mtj-20k) or a geometry file.")] = "mtj-20k",
    coding: Annotated[str, typer.Option(help="binary or ternary")] = "binary",
    binarise: Annotated[bool, typer.Option(help="Turn real weights into binary or ternary ones.")] = False,
    copies: Annotated[list[int] | None, typer.Option(help="How often each layer is written (once per layer).")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows driven at once; fewer see defects better.", min=1)] = None,
    die: Annotated[Path | None, typer.Option(help="Lot folder and die as FOLDER:DIE, to avoid its defects.")] = None,
) -> None:
    """Place trained weights on a die and write the schedule that programs them."""
    from protocols.map_command import map_to_file

    map_to_file(weights, output, geometry, coding, binarise, copies, rows, die)


@app.command()
def program(
    schedule: Annotated[Path, typer.Argument(help="Schedule file made by xbar map.")],
    station: StationFile = None,
    lot: LotName = "mtj",
    dies: Annotated[int | None, typer.Option(help="Only the first so many dies of the route.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated lot.", min=0)] = 0,
    out: Out = None,
) -> None:
    """Program a schedule onto the dies of a station by write-verify, and say what came out."""
    from protocols.program_lot import program_lot
    from protocols.show import run_and_show

    folder = out or Path("runs") / f"program-{time.strftime('%Y%m%d-%H%M%S')}"
    run_and_show(program_lot, "program", {"schedule": schedule}, folder, station, lot, seed, dies, None)


@app.command()
def simulate(
    what: Annotated[str, typer.Argument(help="mtj-lots: methods over defect rate, short and selector resistance")],
    out: Out = None,
    seeds: Annotated[int, typer.Option(help="Training seeds to average over.", min=1)] = 1,
    dies: Annotated[int, typer.Option(help="Dies drawn at every point.", min=2)] = 36,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of every training; by default each has its own number.")
    ] = None,
    seed: Annotated[int, typer.Option(help="First seed.", min=0)] = 0,
    lot: LotName = "mtj",
) -> None:
    """Compare methods over many lots from die records, without the wire."""
    from protocols.simulate import simulate_lots

    if what != "mtj-lots":
        raise typer.BadParameter(f"there is mtj-lots, not {what!r}")
    folder = out or Path("runs") / f"mtj-lots-{time.strftime('%Y%m%d-%H%M%S')}"
    simulate_lots(folder, lot=lot, seeds=range(seed, seed + seeds), dies=dies, epochs=epochs)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    truth: Annotated[Path, typer.Argument(help="Truth file that xbar sim --truth wrote.")],
    json: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Compare what a run found and programmed with what the simulated dies really are."""
    from protocols.show import show_score

    show_score(folder, truth, json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    json: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Make table and report of a run again from its record, finished or not."""
    from protocols.show import show_record

    show_record(folder, json)


def _assignments(items: list[str]) -> dict[str, str]:
    """``["a=1", "b=100mV"]`` as a dict."""
    pairs = [item.partition("=") for item in items]
    bad = [name for name, equals, _ in pairs if not equals]
    if bad:
        raise typer.BadParameter(f"--set takes name=value, got {bad[0]!r}")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _options(arguments: list[str]) -> dict[str, str]:
    """``["--images", "200", "--mnist=X"]`` as a dict: parameters of the protocol given as options."""
    given, rest = {}, list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise typer.BadParameter(f"unexpected {word!r}; parameters of a protocol are given as --name value")
        name, equals, value = word[2:].partition("=")
        if not equals and (not rest or rest[0].startswith("--")):
            raise typer.BadParameter(f"--{name} needs a value")
        given[name] = value if equals else rest.pop(0)
    return given


def _check_writable(path: Path) -> None:
    """Find out before anything moves, not after the night."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}; choose another --json") from error


def main() -> None:
    """Entry point: errors a user can act on are one message, exit status 1; anything else is a traceback."""
    try:
        app()
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in ROOMS
        if not ours and not isinstance(error, OSError):  # a fault of the program: show where
            raise
        sys.stderr.write(f"xbar: {error}\n")
        raise SystemExit(1) from None
