"""The code on the pages of the array library runs, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [DOCS / "array.md", DOCS / "models" / "network.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_run_one_after_another(page: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+\.(?:md|png))\)", text):
        assert (page.parent / target).is_file(), target


def test_the_page_links_to_all_models() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    missing = [page.name for page in (DOCS / "models").glob("*.md") if f"models/{page.name}" not in text]
    assert not missing
