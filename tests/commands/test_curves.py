"""The picture of a run."""

from __future__ import annotations

import pytest

from pipeline.commands.curves import draw_curves
from pipeline.errors import FoundryError

pytestmark = pytest.mark.integration

HISTORY = """step,epoch,loss,learning_rate,gradient_norm,tokens_per_second,val_loss
1,1,8.3,0.001,1.5,9000.0,
10,1,6.1,0.002,0.9,9100.0,
17,1,5.5,0.001,0.8,8000.0,5.6
"""


@pytest.fixture
def history(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "history.csv"
    path.write_text(HISTORY)
    return path


def test_a_history_is_drawn_the_same_each_time(history, tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_curves(history, tmp_path / name)

    picture = (tmp_path / "one.svg").read_bytes()
    assert picture == (tmp_path / "two.svg").read_bytes()
    assert picture.count(b"<path") > 10


def test_an_ending_without_a_format_is_refused(history, tmp_path):
    with pytest.raises(FoundryError, match="nonsense") as caught:
        draw_curves(history, tmp_path / "picture.nonsense")

    assert ".svg" in caught.value.hint


def test_without_a_run_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(FoundryError, match="no run to draw"):
        draw_curves(tmp_path / "history.csv", tmp_path / "picture.svg")
