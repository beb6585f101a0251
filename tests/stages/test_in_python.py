"""Training from Python: the same loop, on a model and a task of the caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import DecoderOnlyLMAdapter, TrainingConfig, load_spec, run_training
from pipeline.data.documents import Document, write_split
from pipeline.data.encode import encode_corpus, metadata, write_metadata
from pipeline.data.tokenizer import Tokenizer, train_tokenizer
from pipeline.errors import TrainingError
from pipeline.files import output_folder
from pipeline.models.transformer import Transformer
from pipeline.paths import SPECS
from pipeline.spec import parse_spec
from pipeline.stages.in_python import TrainingResults

pytestmark = pytest.mark.unit
SETTINGS: dict[str, Any] = {
    "batch_size": 4,
    "epochs": 8,
    "learning_rate": 0.01,
    "num_threads": 1,
    "precision": "32-true",
    "max_seq_len": 16,
}
EVALUATION = """\
schema_version: 1
kind: evaluation
name: few
split: {split}
max_eval_examples: 2
eval_interval_steps: 5
eval_on_start: {start}
"""


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoded")
    texts = ["the quick brown fox jumps over the lazy dog", "a fox and a dog", "over and over the fox jumps"]
    (root / "corpus").mkdir()
    for split in ("train", "validation", "test"):
        rows = (Document(str(number), text) for number, text in enumerate(texts)) if split != "test" else ()
        write_split(root / f"corpus/{split}.jsonl", rows)
    data = train_tokenizer(texts, tokenizer_type="bpe", vocab_size=300)
    with output_folder(root / "tokenizer", stage="tokenizer", sections={}, inputs={}) as folder:
        (folder / "tokenizer.model").write_bytes(data)
        counts = encode_corpus(Tokenizer(data), root / "corpus", folder)
        settings = {"tokenizer_type": "bpe", "special_tokens": []}
        write_metadata(folder, metadata(Tokenizer(data), counts, settings=settings))
    return root / "tokenizer"


def train(
    encoded: Path, *, task: str = "lm_tiny", start: str = "true", split: str = "validation", **changes: Any
) -> TrainingResults:
    torch.manual_seed(0)
    model = Transformer(vocab_size=300, d_model=16, num_layers=1, num_heads=2, d_ff=32, max_seq_len=16)
    adapter = DecoderOnlyLMAdapter(tokenizer=Tokenizer.load(encoded / "tokenizer.model"), max_seq_len=16)
    task_spec = load_spec(SPECS / f"tasks/{task}.yaml", "task")
    evaluation = parse_spec(EVALUATION.format(start=start, split=split).encode(), "few.yaml", "evaluation")
    return run_training(model, adapter, TrainingConfig(**SETTINGS, **changes), task_spec, evaluation, encoded=encoded)


def test_the_summary_has_what_the_task_asks_for_and_training_lowers_it(encoded: Path) -> None:
    results = train(encoded)

    assert set(results.eval_summary) == {"loss", "perplexity", "accuracy"}
    assert results.eval_summary["loss"] < results.evaluations[0]["loss"]
    assert results.eval_summary == results.evaluations[results.total_steps]
    assert len(results.losses) == results.total_steps
    assert set(results.evaluations) == {0, *range(5, results.total_steps + 1, 5), results.total_steps}


def test_the_same_again_gives_the_same(encoded: Path) -> None:
    first, second = train(encoded), train(encoded, start="false")

    assert first.losses == second.losses
    assert 0 not in second.evaluations


def test_a_metric_that_the_task_does_not_measure_is_said_before_training(encoded: Path) -> None:
    with pytest.raises(TrainingError, match="seq2seq_tiny does not measure exact_match"):
        train(encoded, task="seq2seq_tiny")


def test_a_split_without_documents_is_refused(encoded: Path) -> None:
    with pytest.raises(TrainingError, match="the test split has no documents"):
        train(encoded, split="test")


def test_weights_to_start_from_are_refused_for_a_model_that_has_its_own(encoded: Path) -> None:
    with pytest.raises(TrainingError, match="resume_from_checkpoint is not for a model of your own"):
        train(encoded, resume_from_checkpoint="earlier")
