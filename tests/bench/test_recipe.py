"""The recipe's bench: its rows are settings of a spec, its text is cut as nanoGPT cuts it, its command goes on."""

from __future__ import annotations

from typing import Any

import bench_nanogpt
import numpy as np
import pytest
import recipe
import torch
from bench_process import Clock
from click.testing import CliRunner
from recipe_rows import NANOGPT, RECIPE, ROWS, SETTINGS, characters, ours

from pipeline.spec.builder import TrainingConfigBuilder
from pipeline.spec.presets import author
from pipeline.spec.schema import leaves
from pipeline.training.optimizer import learning_rate_at

pytestmark = pytest.mark.integration

TEXT = "".join(f"line {number} of a text that says little;\n" for number in range(60))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "input.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize("row", ROWS)
def test_every_row_changes_settings_that_a_spec_takes(row):
    section_of = {keys[-1]: keys[0] for keys, _ in leaves() if len(keys) == 2}
    builder = TrainingConfigBuilder()

    assert ROWS[row].keys() <= SETTINGS.keys()
    given: dict[str, dict[str, object]] = {}
    for name, value in {**SETTINGS, **ROWS[row]}.items():
        given.setdefault(section_of[name], {})[name] = value
    for section, values in given.items():
        builder = getattr(builder, f"with_{section}")(**values)
    builder.build()


def test_the_template_has_the_settings_of_the_recipe():
    spec = author("x", "characters", {"paths": "[input.txt]"}).to_dict()
    values = {name: value for section in spec.values() if isinstance(section, dict) for name, value in section.items()}

    # `compile_mode` auto weighs what the bench is told.
    assert {name: values[name] for name in SETTINGS if name != "compile_mode"} == {
        name: value for name, value in SETTINGS.items() if name != "compile_mode"
    }


def test_a_text_is_cut_where_nanogpt_cuts_it(text):
    train, held_out, kinds = characters(str(text))

    assert len(train) == int(0.9 * len(TEXT))
    assert kinds == len(set(TEXT))
    letters = sorted(set(TEXT))
    assert "".join(letters[number] for number in np.concatenate([train, held_out])) == TEXT


def test_the_yardstick_has_the_size_and_the_schedule_that_nanogpt_prints():
    model = bench_nanogpt.NanoGPT(65)
    positions = model.positions.weight.numel()

    assert f"{(sum(p.numel() for p in model.parameters()) - positions) / 1e6:.2f}M" == "0.80M"
    assert [bench_nanogpt.rate_at(step, 2000) for step in (0, 100, 2000)] == pytest.approx([1e-3 / 101, 1e-3, 1e-4])
    cosine = learning_rate_at(
        1100, total_steps=2000, peak=1e-3, schedule="cosine", warmup_steps=100, min_lr_ratio=0.1, decay_ratio=1.0
    )
    assert bench_nanogpt.rate_at(1100, 2000) == pytest.approx(cosine)


def test_the_yardstick_learns_and_sees_no_future():
    data = torch.arange(400) % 5
    model = bench_nanogpt.learn(data, 5, steps=30, seed=0)
    ids = data[None, :64].clone()
    changed = ids.clone()
    changed[0, 40:] = 0

    before, after = model(ids), model(changed)

    assert torch.equal(before[0, :40].argmax(-1), data[1:41])
    torch.testing.assert_close(before[0, :40], after[0, :40])


def test_a_row_takes_the_steps_that_fit_into_its_time_and_is_scored_on_all_that_is_held_out(text):
    answers: list[dict[str, float]] = []
    row = {**SETTINGS, **ROWS["mean of the weights, 0.99"], "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    settings = {"text": str(text), "threads": 1, "clock": "processor", "deterministic": False, "seed": 0}

    ours({**settings, "row": {**row, "max_seq_len": 16}, "seconds": 2.0}, Clock(answers.append, lambda: None))

    (figures,) = answers
    assert figures["scored"] == len(TEXT) - int(0.9 * len(TEXT)) - 1
    assert 0 <= figures["compile_seconds"] < figures["seconds"] < 10
    assert figures["steps"] > 10
    assert figures["loss"] < 3


@pytest.mark.slow
def test_the_command_measures_each_row_once_and_writes_the_table(text, tmp_path):
    document, store = tmp_path / "page.md", tmp_path / "store.jsonl"
    document.write_text("before\n<!-- bench:recipe -->\n<!-- /bench:recipe -->\nafter\n")
    arguments = ["--text", str(text), "--row", "AdamW", "--seeds", "1", "--threads", "1", "--seconds", "1.5"]
    arguments += ["--nanogpt-steps", "2", "--store", str(store), "--write", str(document)]

    first = CliRunner().invoke(recipe.main, arguments)
    kept = store.read_text()
    second = CliRunner().invoke(recipe.main, arguments)

    assert first.exit_code == second.exit_code == 0, first.output
    assert store.read_text() == kept
    assert len(kept.splitlines()) == 3
    rows = [line.split(" | ")[0].removeprefix("| ") for line in document.read_text().splitlines() if line[:2] == "| "]
    assert rows == ["Row", "---", NANOGPT, RECIPE, "AdamW"]
    assert document.read_text().endswith("after\n")


def test_a_row_is_compared_with_the_recipe_over_its_own_seeds():
    def run(loss: float) -> dict[str, Any]:
        rest = dict.fromkeys(("steps", "tokens", "parameters", "compile_seconds", "seconds", "scored"), 1)
        return {"loss": loss, "precision": "32-true", **rest}

    results = {RECIPE: [run(1.5), run(1.7)], "AdamW": [run(1.6)], "cosine": [run(1.6), run(1.7)]}

    lines = recipe.table(results, threads=1, clock="wall", load=0.0).splitlines()

    compared = {cells[1].strip(): cells[4].strip() for cells in (line.split("|") for line in lines[2:5])}
    assert compared == {RECIPE: "+0.0000", "AdamW": "+0.1000", "cosine": "+0.0500"}


def test_a_page_without_marks_is_refused_before_anything_is_measured(text, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marks")

    done = CliRunner().invoke(recipe.main, ["--text", str(text), "--write", str(page)])

    assert done.exit_code == 1
    assert "<!-- bench:recipe -->" in done.output
