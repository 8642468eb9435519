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
    from protocols.catalogue import find
    from protocols.parameters import parse
    from protocols.show import run_and_show

    function = find(name)
    parameters = parse(function, _assignments(settings or []) | _options(context.args))
    if json is not None:
        _check_writable(json)
    folder = out or Path("runs") / f"{Path(name.split(':')[0]).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    run_and_show(function, name, parameters, folder, station, lot, seed, dies, json)


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
    except KeyboardInterrupt:
        sys.stderr.write("aborted; the record is complete up to the last step, run the same command to go on\n")
        raise SystemExit(130) from None
    except Exception as error:
        ours = type(error).__module__.partition(".")[0] in ROOMS
        if not ours and not isinstance(error, OSError):  # a fault of the program: show where
            raise
        sys.stderr.write(f"xbar: {error}\n")
        raise SystemExit(1) from None
