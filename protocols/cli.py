"""The `xbar` command. Heavy imports wait until a command needs them, so that `xbar --help` is quick.

For the same reason annotations are no texts here (no `from __future__ import annotations`): Typer would read those of
all commands twice, whichever is given.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from protocols.sequencer.stopping import heed_interrupt
from protocols.source.catalogue import SHIPPED
from protocols.terminal.streams import steady
from protocols.terminal.user_errors import for_the_user

app = typer.Typer(
    name="xbar",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(asked: bool) -> None:
    if asked:
        from protocols.terminal.console import say
        from xbarlab import __version__

        say(f"xbarlab {__version__}")
        raise typer.Exit


@app.callback()
def xbar(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Program and read emerging-memory crossbar dies at a probe station, real or simulated."""


Out = Annotated[Path | None, typer.Option(help="Folder for record and report; the same folder goes on where it ended.")]
StationFile = Annotated[
    Path | None, typer.Option(help="Station file of a bench; without it a simulated one is started.")
]
ProtocolLot = Annotated[
    str | None,
    typer.Option(
        help="Lot of the simulated station: a name or a lot file, @rack after it for a rack in place of the board; "
        "by default the protocol's own (mtj, tio2-8x8@rack)."
    ),
]
LotName = Annotated[str, typer.Option(help="Lot of the simulated station: a name or a lot file.")]
Dies = Annotated[int | None, typer.Option(help="Only the first so many dies of the route.", min=1)]
Only = Annotated[str | None, typer.Option(help="Only these dies, as c3r4,c5r5.")]
Skip = Annotated[str | None, typer.Option(help="Not these dies.")]
Retest = Annotated[str | None, typer.Option(help="Do dies with these verdicts anew, as fail,error.")]
RetestBin = Annotated[str | None, typer.Option(help="Do dies with these bins anew, as 2,7.")]
StopAfter = Annotated[int, typer.Option(help="Stop when so many dies in a row do not pass; 0: never.", min=0)]
Golden = Annotated[str | None, typer.Option(help="Die that is only read now and then, to see needles drift.")]
GoldenEvery = Annotated[int, typer.Option(help="Dies between two looks at the golden die.", min=1)]
Lease = Annotated[str, typer.Option(help="Silence after which the station makes itself safe.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
RunNumber = Annotated[int | None, typer.Option(help="Number of the run; by default the newest.", min=1)]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the script that the record names, though it is not known to be yours.")
]


def _allow(packages: list[str] | None) -> list[str] | None:
    if packages:
        from instruments.foreign.driver_packages import allow

        allow(packages)
    return packages


Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow", metavar="PACKAGE", callback=_allow, help="Import drivers of a station file from this package, too."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Parameter of the protocol, as name=value; units are understood.")
]


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"Protocol: {', '.join(SHIPPED)}, or my_script.py:my_protocol")],
    station: StationFile = None,
    lot: ProtocolLot = None,
    dies: Dies = None,
    seed: Annotated[int, typer.Option(help="Seed of training and of the simulated lot.", min=0)] = 0,
    out: Out = None,
    json: Annotated[Path | None, typer.Option(help="Also write the result as JSON.")] = None,
    settings: Settings = None,
    only: Only = None,
    skip: Skip = None,
    retest: Retest = None,
    retest_bin: RetestBin = None,
    stop_after: StopAfter = 3,
    golden: Golden = None,
    golden_every: GoldenEvery = 5,
    lease: Lease = "30 s",
    allow: Allow = None,
) -> None:
    """Run a protocol over a lot; any parameter of the protocol is also an option (--images 200)."""
    from protocols.commands.show import run_and_show
    from protocols.sequencer import selection
    from protocols.sequencer.parameters import parse
    from protocols.source.catalogue import find, lot_of, name_in_record

    _refuse_for_run(context, station, golden)
    function = find(name)
    parameters = parse(function, _parameters(settings, context.args))
    _check_json(json)
    folder = out or Path("runs") / f"{Path(name.split(':')[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    chosen = selection.of_options(seed, dies, only, skip, retest, retest_bin, stop_after, golden, golden_every)
    where = (folder, station, lot or lot_of(name), chosen, json)
    run_and_show(function, name_in_record(name), parameters, *where, lease=_seconds(lease))


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
    from protocols.commands.serve import serve

    serve(station, write, seed=seed, truth=truth, log=log, state=state, realtime=realtime)


@app.command(name="map")
def map_(
    context: typer.Context,
    weights: Annotated[Path, typer.Argument(help="State dict: .safetensors, .pt (weights only) or .npz")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Schedule file to write.")],
    geometry: Annotated[
        str, typer.Option(help="Kind of die: mtj-20k, passive-8x8, passive-64x64, or a file.")
    ] = "mtj-20k",
    coding: Annotated[str, typer.Option(help="binary, ternary or analog")] = "binary",
    binarise: Annotated[bool, typer.Option(help="Turn real weights into binary or ternary ones.")] = False,
    copies: Annotated[list[int] | None, typer.Option(help="How often each layer is written (once per layer).")] = None,
    rows: Annotated[int | None, typer.Option(help="Rows driven at once; fewer see defects better.", min=1)] = None,
    die: Annotated[Path | None, typer.Option(help="Lot folder and die as FOLDER:DIE, to avoid its defects.")] = None,
    pairs: Annotated[str, typer.Option(help="Analog: physical, or paper (for simulations only).")] = "physical",
    scheme: Annotated[str, typer.Option(help="Analog: bias scheme of the pulses, V/2 or V/3.")] = "V/2",
    parallel: Annotated[str, typer.Option(help="Analog: cell by cell, or line by line.")] = "cell",
    tolerance: Annotated[str, typer.Option(help="Analog: half-width of the band.")] = "1 %",
    cap: Annotated[str | None, typer.Option(help="Analog: largest amplitude, as 1.2V; large arrays need it.")] = None,
) -> None:
    """Place trained weights on a die and write the schedule that programs them."""
    from protocols.commands.map import map_analog_to_file, map_to_file
    from protocols.options import refuse

    if coding == "analog":
        refuse(context, "binarise", "rows", only="with --coding binary or ternary")
        how = {"pairs": pairs, "scheme": scheme, "parallel": parallel, "copies": copies, "die": die}
        map_analog_to_file(weights, output, geometry, tolerance=tolerance, cap=cap, **how)  # type: ignore[arg-type]
        return
    refuse(context, "pairs", "scheme", "parallel", "tolerance", "cap", only="with --coding analog")
    map_to_file(weights, output, geometry, coding, binarise, copies, rows, die)


@app.command()
def program(
    context: typer.Context,
    schedule: Annotated[Path, typer.Argument(help="Schedule file made by xbar map.")],
    station: StationFile = None,
    lot: LotName = "mtj",
    dies: Dies = None,
    seed: Annotated[int, typer.Option(help="Seed of the simulated lot.", min=0)] = 0,
    out: Out = None,
    only: Only = None,
    skip: Skip = None,
    retest: Retest = None,
    retest_bin: RetestBin = None,
    stop_after: StopAfter = 3,
    golden: Golden = None,
    golden_every: GoldenEvery = 5,
    lease: Lease = "30 s",
    allow: Allow = None,
) -> None:
    """Program a schedule onto the dies of a station by write-verify, and say what came out."""
    from protocols.commands.show import run_and_show
    from protocols.options import refuse
    from protocols.sequencer import selection
    from protocols.shipped.program import program_lot

    _refuse_for_run(context, station, golden)
    if station is not None:
        refuse(context, "seed", only="at a simulated station, without --station")
    folder = out or Path("runs") / f"program-{time.strftime('%Y%m%d-%H%M%S')}"
    chosen = selection.of_options(seed, dies, only, skip, retest, retest_bin, stop_after, golden, golden_every)
    where = (folder, station, lot, chosen, None)
    run_and_show(program_lot, "program", {"schedule": schedule}, *where, lease=_seconds(lease))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"Protocol: {', '.join(SHIPPED)}, or my_script.py:my_protocol")],
    station: Annotated[Path | None, typer.Option(help="Station file to check; nothing is connected.")] = None,
    like: Annotated[Path | None, typer.Option(help="Folder of an earlier run at that station.")] = None,
    lot: Annotated[str | None, typer.Option(help="Kind of die that is assumed, such as tio2-8x8@rack.")] = None,
    dies: Dies = None,
    seed: Annotated[int, typer.Option(help="Seed of the run.", min=0)] = 0,
    settings: Settings = None,
    allow: Allow = None,
) -> None:
    """Say what a run would do, what that costs and whether it can work, without a station."""
    from protocols.options import refuse
    from protocols.plan.plan import plan_protocol
    from protocols.plan.table import show_plan
    from protocols.sequencer.parameters import parse
    from protocols.source.catalogue import find, lot_of, name_in_record
    from protocols.terminal.console import console

    if like is not None:
        refuse(context, "lot", only="without --like, which tells the kind of die")
    function = find(name)
    parameters = parse(function, _parameters(settings, context.args))
    where: dict[str, Any] = {"station": station, "like": like, "lot": lot or lot_of(name)}
    planned = plan_protocol(function, name_in_record(name), parameters, dies=dies, seed=seed, **where)
    show_plan(console(), planned)
    if not planned.possible:
        raise SystemExit(1)


@app.command()
def resume(
    context: typer.Context,
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Do anew what has changed since.")] = False,
    stop_after: Annotated[
        int | None, typer.Option(help="Stop after so many bad dies in a row; 0: never.", min=0)
    ] = None,
    settings: Settings = None,
    skip: Skip = None,
    lease: Lease = "30 s",
    trust: Trust = False,
    allow: Allow = None,
) -> None:
    """Go on with a run that did not finish, as it was started; or let a paused one go on."""
    from protocols.commands.resume import resume as go_on
    from protocols.options import given
    from protocols.sequencer import selection

    changed = _assignments(settings or [])
    skipped = selection.names(skip)
    more = given(context, "yes", "stop_after", "settings", "skip", "lease")
    how: dict[str, Any] = {"yes": yes, "stop_after": stop_after, "assignments": changed, "skip": skipped}
    go_on(folder, lease=_seconds(lease), trust=trust, given=more, **how)


@app.command()
def pause(folder: Folder) -> None:
    """Let a running run pause after its step, needles off; xbar resume lets it go on."""
    _ask(folder, "pause", "pauses after its step")


@app.command()
def abort(folder: Folder) -> None:
    """Abort a running run now, also one that hangs or died and left its station on: all grounded, needles off."""
    from protocols.commands.abort import abort as end
    from protocols.terminal.console import say

    say(end(folder))


@app.command()
def status(folder: Folder, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say where a lot stands: runs, dies and their verdicts, what is being done, what to type next."""
    from protocols.commands.status import show_status

    show_status(folder, as_json=json)


@app.command()
def simulate(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help="mtj-lots: methods over defect rate, short and selector resistance; "
            "tio2-transfers: networks written thousands of times into passive arrays"
        ),
    ],
    out: Out = None,
    seeds: Annotated[int, typer.Option(help="Training seeds to average over.", min=1)] = 1,
    dies: Annotated[int, typer.Option(help="mtj-lots: dies drawn at every point.", min=2)] = 36,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of every training; by default each has its own number.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="First seed.", min=0)] = 0,
    lot: LotName = "mtj",
    transfers: Annotated[int, typer.Option(help="tio2-transfers: transfers of each network.", min=20)] = 3000,
    moons: Annotated[Path | None, typer.Option(help="tio2-transfers: folder with other points than our own.")] = None,
    maps: Annotated[str, typer.Option("--map", help="tio2-transfers: physical, paper or both.")] = "both",
) -> None:
    """Compare methods over many simulated lots or transfers, without the wire."""
    from protocols.options import refuse

    folder = out or Path("runs") / f"{what}-{time.strftime('%Y%m%d-%H%M%S')}"
    if what == "mtj-lots":
        refuse(context, "transfers", "moons", "maps", only="in xbar simulate tio2-transfers")
        from protocols.studies.mtj_lots import simulate_lots

        simulate_lots(folder, lot=lot, seeds=range(seed, seed + seeds), dies=dies, epochs=epochs)
    elif what == "tio2-transfers":
        refuse(context, "dies", "lot", only="in xbar simulate mtj-lots")
        from protocols.studies.tio2_transfers import simulate_transfers

        every = range(seed, seed + seeds)
        simulate_transfers(folder, transfers=transfers, seeds=every, maps=maps, moons=moons, epochs=epochs)
    else:
        raise typer.BadParameter(f"there are mtj-lots and tio2-transfers, not {what!r}")


@app.command()
def score(
    folder: Folder,
    truth: Annotated[Path, typer.Argument(help="Truth file that xbar sim --truth wrote.")],
    json: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
) -> None:
    """Compare what a run found and programmed with what the simulated dies really are."""
    from protocols.commands.show import show_score

    _check_json(json)
    show_score(folder, truth, json)


@app.command()
def report(
    folder: Folder,
    json: Annotated[Path | None, typer.Option(help="Also write the numbers as JSON.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for report.html; by default the run's.")
    ] = None,
) -> None:
    """Make table and report of a run again from its record, finished or not."""
    from protocols.commands.show import show_record

    _check_json(json)
    show_record(folder, json, out)


@app.command()
def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="hdf5, qcodes or csv")],
    run: RunNumber = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File or folder; by default in the run's.")] = None,
) -> None:
    """Write a run as files that other programs open."""
    from analysis.export.formats import export as write
    from protocols.terminal.console import say

    suffix = {"hdf5": ".h5", "qcodes": ".db"}.get(to, "")
    name = f"export{suffix}" if run is None else f"export-run-{run}{suffix}"
    say(f"written: {write(folder, run, cast(Any, to), out or folder / name)}")


@app.command()
def twin(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", "-o", help="Lot file to write.")] = Path("lot.yaml"),
) -> None:
    """Make a simulated lot of the dies that a record holds."""
    from analysis.twin.fit import write_twin
    from protocols.terminal.console import say

    say(str(write_twin(folder, output)))


@app.command()
def replay(
    folder: Folder,
    run: RunNumber = None,
    trust: Trust = False,
    allow: Allow = None,
) -> None:
    """Do a recorded run again from its traffic, without hardware, and compare."""
    from protocols.commands.replay import replay_and_show

    replay_and_show(folder, run, trust=trust)


def _ask(folder: Path, what: str, then: str) -> None:
    """Leave a request for the process that does the run."""
    from analysis.record.record import send_request
    from protocols.terminal.console import command, say

    send_request(folder, what)
    say(f"asked: the run {then}; {command('xbar', 'status', folder)} shows it")


def _seconds(text: str) -> float:
    """``"30 s"`` as a number."""
    from instruments.roles.quantities import LEASE

    try:
        return LEASE.read(text)
    except ValueError as error:
        raise typer.BadParameter(f"--lease: {error}") from error


def _refuse_for_run(context: typer.Context, station: Path | None, golden: str | None) -> None:
    """Refuse options of a run that would change nothing."""
    from protocols.options import refuse

    if station is not None:
        refuse(context, "lot", only="at a simulated station, without --station")
    if golden is None:
        refuse(context, "golden_every", only="with --golden")


def _parameters(settings: list[str] | None, arguments: list[str]) -> dict[str, str]:
    """Parameters of a protocol, by ``--set`` and as options of their own."""
    assigned, named = _assignments(settings or []), _options(arguments)
    twice = {name.replace("-", "_") for name in assigned} & {name.replace("-", "_") for name in named}
    if twice:
        raise typer.BadParameter(f"{min(twice)} is given twice, with --set and as an option; give it once")
    return assigned | named


def _once(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Pairs as a dict; a name that stands twice is refused, where the last one would be taken in silence."""
    names = [name.replace("-", "_") for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise typer.BadParameter(f"{twice[0]} is given twice; give it once")
    return dict(pairs)


def _assignments(items: list[str]) -> dict[str, str]:
    """``["a=1", "b=100mV"]`` as a dict."""
    pairs = [item.partition("=") for item in items]
    bad = [name for name, equals, _ in pairs if not equals]
    if bad:
        raise typer.BadParameter(f"--set takes name=value, got {bad[0]!r}")
    return _once([(name.strip(), value.strip()) for name, _, value in pairs])


def _options(arguments: list[str]) -> dict[str, str]:
    """``["--images", "200", "--mnist=X"]`` as a dict: parameters of the protocol given as options."""
    given, rest = list[tuple[str, str]](), list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise typer.BadParameter(f"unexpected {word!r}; parameters of a protocol are given as --name value")
        name, equals, value = word[2:].partition("=")
        if not equals and (not rest or rest[0].startswith("--")):
            raise typer.BadParameter(f"--{name} needs a value")
        given.append((name, value if equals else rest.pop(0)))
    return _once(given)


def _check_json(path: Path | None) -> None:
    """Find out before anything moves, not after the night."""
    from analysis.record.own_files import check_output, is_json

    if path is not None:
        check_output(path, "--json", is_json)


def main() -> None:
    """Entry point: errors a user can act on are one message, exit status 1; anything else is a traceback."""
    from xbarlab.command import prepare

    heed_interrupt()
    with steady():
        prepare()
        try:
            app()
        except Exception as error:
            if not for_the_user(error) and not isinstance(error, OSError):  # a fault of the program: show where
                raise
            beside = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
            sys.stderr.write(f"xbar: {error}{beside}\n")
            raise SystemExit(1) from None
