"""Pages: one HTML file each that opens anywhere, offline, with figures and all that they need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from bokeh.core.validation import check_integrity, process_validation_issues
from bokeh.document import Document
from bokeh.embed import components
from bokeh.resources import Resources
from markupsafe import Markup


def page(template: str, figures: Mapping[str, Any], **values: Any) -> str:
    """A page as HTML. All text is escaped, by Jinja in the page and by Bokeh in the figures.

    Parameters
    ----------
    template
        File in ``templates``; it finds the place of every figure in `plots`, by name.
    figures
        Bokeh's figures by name, at least one.
    values
        What else the template shows.
    """
    script, places = embedded(figures)
    loaded = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.figures", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template(template)  # fmt: skip
    return loaded.render(
        plots={name: Markup(place) for name, place in places.items()},
        bokeh=Markup(Resources(mode="inline", components=["bokeh"]).render()),
        script=Markup(script),
        **values,
    )


def embedded(figures: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Script of all figures and the place of each, from one document (so that they share selections)."""
    document = _Figures()
    with document.models.freeze():  # walks through the models once, not once per figure
        for figure in figures.values():
            document.add_root(figure)
    found: tuple[str, dict[str, str]] = components(dict(figures))
    return found


class _Figures(Document):
    """A document that is checked over the models it knows, where Bokeh looks for those of each figure once more."""

    def validate(self) -> None:
        process_validation_issues(check_integrity(list(self.models)))


def write_whole(path: Path, text: str) -> Path:
    """Write a page beside its place and move it there, so that a reader never meets half of it; returns the place."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    return unfinished.replace(path)
