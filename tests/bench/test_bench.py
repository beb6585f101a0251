"""The benchmark measures what it says, on the smallest model there is."""

from __future__ import annotations

import json
import os

import bench_parts
import bench_plain
import bench_report
import pytest
import run
import torch
from bench_contenders import CONTENDERS
from bench_process import Child, Clock, WorkFailedError, in_child, milliseconds
from click.testing import CliRunner

from pipeline import paths
from pipeline.models.transformer import Transformer
from pipeline.spec import load_spec
from pipeline.stages import WAITING

pytestmark = pytest.mark.integration

MACHINE_ROWS = ("Processor", "Memory", "Load average")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    spec = load_spec(paths.SPECS / "experiment.yaml")
    return run.settings_of(spec, tmp_path_factory.mktemp("bench"), quick=True) | {"threads": 1, "deterministic": False}


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def figures_of(work, settings):
    """What a part answers, in this process."""
    answers = []
    work(settings, Clock(answers.append, lambda: None))
    return answers[0]


def test_the_parts_of_a_step_are_times_and_none_is_longer_than_the_step(settings):
    figures = figures_of(bench_parts.step, settings)

    parts = figures["parts_ms"]
    whole = parts.pop("whole")
    assert list(parts) == ["batch", "forward", "backward", "clip", "optimizer"]
    assert all(0 < part < whole for part in parts.values())
    assert figures["peak_rss_mb"] > 50


def test_every_matrix_product_has_a_rate_in_both_types(settings):
    figures = figures_of(bench_parts.matmul, settings)

    assert set(figures) == {"float32", "bfloat16"}
    assert figures["float32"].keys() == figures["bfloat16"].keys()
    assert all(0 < rate < 1e7 for rates in figures.values() for rate in rates.values())


def test_the_tokenizer_trains_and_encodes_all_of_the_text(settings):
    figures = figures_of(bench_parts.tokenizer, settings)

    assert figures["vocab_size"] == settings["tokenizer"]["vocab_size"]
    assert figures["megabytes"] * 1e6 >= settings["text_bytes"]
    assert figures["encoding_mb_per_second"] > figures["training_mb_per_second"] > 0


def test_generated_text_is_the_same_every_time():
    assert bench_parts.generated_texts(10_000) == bench_parts.generated_texts(10_000)


def test_inference_is_timed_at_every_length_and_way(settings):
    figures = figures_of(bench_parts.latency, settings)

    longest = settings["model"]["max_seq_len"]
    assert list(figures["pytorch"]) == list(figures["onnx"]) == [str(longest // 4), str(longest)]
    rows = [row for way in ("pytorch", "onnx", "cached") for row in figures[way].values()]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] for row in rows)
    assert figures["model"] == "random weights"


def test_checkpoints_and_model_folders_are_timed_and_weighed(settings):
    figures = figures_of(bench_parts.files, settings)

    weights = 4 * sum(p.numel() for p in Transformer(**settings["model"]).parameters()) / 1e6
    assert all(row["p50_ms"] > 0 for row in figures["times"].values())
    assert figures["checkpoint_mb"] > 3 * weights  # the weights and two moments
    assert figures["model_folder_mb"] > weights


def test_whole_commands_are_timed(settings):
    figures = figures_of(bench_parts.commands, settings)

    assert len(figures["times"]) == 4
    assert all(row["p50_ms"] > 10 for row in figures["times"].values())  # Python alone takes that long to start


@pytest.mark.parametrize("quick", [True, False])
def test_the_plain_model_has_as_many_parameters_as_ours(tmp_path, quick):
    made = run.settings_of(load_spec(paths.SPECS / "experiment.yaml"), tmp_path, quick=quick)

    ours = sum(p.numel() for p in Transformer(**made["model"]).parameters())
    plain = sum(p.numel() for p in bench_plain.build(made).parameters())

    assert abs(plain - ours) < 0.01 * ours


def test_the_plain_model_computes_a_loss_near_that_of_guessing(settings):
    torch.manual_seed(0)
    vocabulary = settings["model"]["vocab_size"]
    ids, targets = torch.randint(vocabulary, (2, 4, 32))

    loss = bench_plain.build(settings)(ids, targets)

    assert abs(loss.item() - torch.tensor(float(vocabulary)).log().item()) < 0.3


def test_a_clock_measures_each_round_and_skips_its_first_step():
    answers = []
    requests = iter([{"seconds": 0.0}, {"seconds": 0.0}, None])
    clock = Clock(answers.append, lambda: next(requests))
    clock.describe(parameters=3)

    ended = [clock(10) for _ in range(5)]

    assert ended == [False] * 4 + [True]  # the start, then two rounds of a step to warm up and a counted one
    assert answers[0]["parameters"] == 3
    assert [answer["steps"] for answer in answers[1:]] == [1, 1]
    assert all(answer["tokens_per_second"] > 0 for answer in answers[1:])


WORK = """import os

def waiting(settings, clock):
    clock.report({name: os.environ.get(name) for name in settings["names"]})
"""


def test_a_child_waits_as_pytorch_does_unless_it_is_told_to_wait_as_a_stage_does(tmp_path, monkeypatch):
    (tmp_path / "some_work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    names = {"names": list(WAITING)}

    by_itself, as_a_stage = (in_child("some_work:waiting", names, environment) for environment in (None, WAITING))

    assert by_itself == {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None}
    assert as_a_stage == WAITING


def test_all_but_ours_wait_as_they_would_by_themselves():
    assert {name for name, contender in CONTENDERS.items() if contender.ours} == {"foundry", "foundry-eager"}


def test_percentiles_are_those_of_the_sorted_times():
    figures = milliseconds([value / 1000 for value in range(100, -1, -1)])

    assert figures == {"p50_ms": 50.0, "p95_ms": 95.0, "runs": 101}


def test_work_that_fails_says_why():
    with (
        Child("bench_parts:nothing_of_this_name", {}) as child,
        pytest.raises(WorkFailedError, match="nothing_of_this"),
    ):
        child.answer()


def test_a_block_replaces_what_stood_between_its_marks_and_nothing_else():
    document = "above\n<!-- bench:step -->\nold\n<!-- /bench:step -->\nbelow\n"

    written = bench_report.insert(document, {"step": "new"})

    assert written == "above\n<!-- bench:step -->\n\nnew\n\n<!-- /bench:step -->\nbelow\n"
    assert bench_report.insert(written, {"step": "new"}) == written


def test_a_document_without_the_marks_is_refused():
    with pytest.raises(ValueError, match="bench:step"):
        bench_report.insert("no marks", {"step": "new"})


def test_the_document_has_a_place_for_every_part(checkout):
    text = (checkout / "docs" / "performance.md").read_text(encoding="utf-8")

    written = bench_report.insert(text, dict.fromkeys(["machine", *run.PARTS], "here"))

    assert written.count("\nhere\n") == 1 + len(run.PARTS)


def test_a_document_that_cannot_take_the_tables_is_refused_before_anything_is_measured(tmp_path):
    document = tmp_path / "notes.md"
    document.write_text("no marks", encoding="utf-8")

    done = CliRunner().invoke(run.main, ["--write", str(document)])

    assert done.exit_code == 2
    assert "<!-- bench:machine -->" in done.output


@pytest.mark.e2e
def test_the_command_measures_prints_and_writes_the_document(tmp_path, checkout):
    document, figures = tmp_path / "performance.md", tmp_path / "figures.json"
    document.write_text((checkout / "docs" / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    command = ["--quick", "--part", "training", "--json", str(figures), "--write", str(document)]

    done = CliRunner().invoke(run.main, command)

    assert done.exit_code == 0, done.output
    results = json.loads(figures.read_text(encoding="utf-8"))
    training = results["parts"]["training"]
    rows = training["contenders"]
    assert rows["foundry"]["parameters"] == rows["plain-fp32"]["parameters"]
    for row in rows.values():
        assert row["tokens_per_second"] > 0
        assert row["start_seconds"] > 0
        ceiling = training["matmul_gflops"]["float32" if row["precision"] == "32-true" else "bfloat16"]["best"] * 1e9
        assert row["utilization"] == pytest.approx(row["tokens_per_second"] * training["flops_per_token"] / ceiling)
    written = document.read_text(encoding="utf-8")
    assert all(name in done.stdout and name in written for name in (*MACHINE_ROWS, "plain loop", "A quick run"))
