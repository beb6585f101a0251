"""The page of curves holds everything it needs."""

from __future__ import annotations

import pytest

from pipeline.commands.plots import self_contained
from pipeline.errors import FoundryError

pytestmark = pytest.mark.unit


def test_the_page_of_the_project_needs_nothing_from_outside(checkout):
    scripts = checkout / ".dvc" / "plots-offline"

    page = self_contained((scripts / "page.html").read_text(encoding="utf-8"), scripts)

    assert "<script src" not in page
    assert page.count("<script>") == 3
    assert page.count("</script>") == 3
    assert "{plot_divs}" in page


def test_a_missing_script_is_named_with_the_command_that_brings_it_back(tmp_path):
    page = '<script src="../.dvc/plots-offline/vega.min.js"></script>'

    with pytest.raises(FoundryError, match=r"vega\.min\.js") as caught:
        self_contained(page, tmp_path)

    assert caught.value.hint.startswith("bring it back with: git checkout")
