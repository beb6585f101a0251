"""The options of the one-command pipeline, as JSON, YAML or the shell call itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline.spec.diagnose import Problem, SpecError
from pipeline.spec.document import Document, Place, scalar
from pipeline.spec.migrate.table import PYTORCH_ADAM, Carried, Dialect, Dropped, Fixed

CALLS = (".sh", ".txt")  # files that hold the call of a command
_OPTION = re.compile(r"(?<!\S)(--[a-z][a-z-]*)(?:(?:[ \t]+|=)(?!-)([^\s\\#]+))?")
_CACHED = "a stage whose inputs did not change is not run again"


def _corpus_file(output_dir: Any) -> Any:
    return (
        [f"{output_dir.removeprefix('./').rstrip('/')}/corpus_bilingual.txt"]
        if isinstance(output_dir, str)
        else output_dir
    )


ONE_COMMAND = Dialect(
    name="one-command",
    title="set of options of the one-command pipeline",
    kind="experiment",
    has_options=True,
    rows=(
        Dropped("corpus_url", "the earlier pipeline never used it; dataset.source can name an address"),
        Carried("vocab_size", "tokenizer.vocab_size", 8000),
        Carried("epochs", "training.epochs", 20),
        Carried("batch_size", "training.batch_size", 32),
        Carried("learning_rate", "training.learning_rate", 3e-4),
        Carried("max_seq_length", "model.max_seq_len", 128),
        Carried(
            "output_dir",
            "dataset.source.paths",
            "./data",
            meaning=_corpus_file,
            note="the corpus it wrote there is read; what is made now goes to artifacts/",
        ),
        Dropped("resume", "an interrupted run goes on by itself"),
        Dropped("skip_corpus", _CACHED),
        Dropped("skip_tokenizer", _CACHED),
        Dropped("help", "it only printed the options"),
    ),
    fixed=(
        Fixed("dataset.source.kind", "files", "it wrote its corpus to one file"),
        Fixed("dataset.split_method", "contiguous", "one file cannot be dealt to splits as a whole"),
        Fixed("dataset.validation_split", 0.1, "a tenth was held out"),
        Fixed("model.model_type", "gpt", "the architecture of its script"),
        Fixed("model.num_layers", 2, "its script's figure"),
        Fixed("model.d_model", 128, "its script's figure"),
        Fixed("model.num_heads", 4, "its script's figure"),
        Fixed("model.d_ff", 256, "its script's figure"),
        Fixed("model.tie_embeddings", False, "its 2.45 million parameters are those of two matrices"),
        *PYTORCH_ADAM,
        Fixed("optimizer.weight_decay", 0.01, "the default of PyTorch's AdamW"),
        Fixed("training.max_grad_norm", 1.0, "its script's figure"),
        Fixed("scheduler.scheduler_type", "cosine", "the only schedule it had"),
        Fixed("scheduler.warmup_ratio", 0.0, "it never warmed up"),
        Fixed("scheduler.min_lr_ratio", 0.0, "its cosine ended at zero"),
        Fixed("checkpointing.save_every_n_epochs", 5, "its script's figure"),
        Fixed("logging.sample_prompts", ["Hello", "Hola"], "its script's prompts"),
        Fixed("logging.sample_max_new_tokens", 30, "its script's figure"),
        Fixed("logging.sample_temperature", 0.7, "its script's figure"),
        Fixed("validation.prompts", ["Hello"], "its inference test"),
        Fixed("validation.max_new_tokens", 10, "its inference test"),
    ),
)  # fmt: skip


def read_call(path: Path) -> Document:
    """The options of a shell call as a document; an option without a value is true.

    Raises:
        SpecError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Problem("E0101", f"the file cannot be read: {error}", str(path))]) from None
    document = Document(str(path), text.split("\n"), {}, places={(): Place(1, 1, 1)})
    for number, line in enumerate(document.lines, 1):
        if not line.lstrip().startswith("#"):
            for option in _OPTION.finditer(line):
                _note(document, option, number)
    return document


def _note(document: Document, option: re.Match[str], line: int) -> None:
    name, value = option.groups()
    document.values[name] = True if value is None else scalar(value.strip("\"'"))
    document.keys[name,] = Place(line, option.start(1) + 1, len(name))
    document.places[name,] = document.keys[name,]
    if value is not None:
        document.places[name,] = Place(line, option.start(2) + 1, len(value))
        document.texts[name,] = value
