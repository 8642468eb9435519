"""Options of a command that would change nothing: refused by name, so that nobody believes they did."""

from __future__ import annotations

import typer


def given(context: typer.Context, *names: str) -> list[str]:
    """The options among `names` (of the function's parameters) that stand on the command line, as written there."""
    flags = {each.name: max(each.opts, key=len) for each in context.command.params}
    sources = {name: context.get_parameter_source(name) for name in names}
    return [flags[name] for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def refuse(context: typer.Context, *names: str, only: str) -> None:
    """Refuse options that have no effect here.

    Parameters
    ----------
    names
        Parameters of the command's function.
    only
        When they have one, in words that follow "only".

    Raises
    ------
    typer.BadParameter
        If any of them was given.
    """
    if there := given(context, *names):
        has = "have an effect" if len(there) > 1 else "has an effect"
        raise typer.BadParameter(
            f"{', '.join(there)} {has} only {only}; leave {'them' if len(there) > 1 else 'it'} out"
        )
