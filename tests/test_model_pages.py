"""Every device model has a page, and the figure on it can be drawn by the code beside it."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

MODELS = Path(__file__).parents[1] / "docs" / "models"
SCRIPTS = sorted(MODELS.glob("draw_*.py"))
#: What figures of many draws are drawn from here, where nobody looks at how smooth their curves are.
FEWER = {"draw_tio2": {"arrays": 25}, "draw_statistics": {"draws": 10_000}}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_figure_is_drawn(script, tmp_path):
    figure = runpy.run_path(str(script))["draw"](**FEWER.get(script.stem, {}))
    drawn = [axes for axes in figure.axes if axes.has_data()]
    assert drawn, "a figure shows something"
    for axes in drawn:
        assert any((axes.get_xlabel(), axes.get_ylabel(), axes.get_title())), "and says what"
    figure.savefig(tmp_path / "figure.png", dpi=50)
    plt.close(figure)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_page_shows_its_figure(script):
    name = script.stem.removeprefix("draw_")
    page = (MODELS / f"{name}.md").read_text()
    assert f"({name}.png)" in page
    assert (MODELS / f"{name}.png").stat().st_size > 10_000


def test_every_page_says_where_values_come_from_and_what_is_assumed():
    for page in MODELS.glob("*.md"):
        if page.stem != "network":  # it has no values
            text = page.read_text().lower()
            assert "assumed" in text, page.name
            assert any(word in text for word in ("source", "fit", "arxiv", "default", "placeholder")), page.name
