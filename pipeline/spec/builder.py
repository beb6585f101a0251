"""An experiment built step by step in Python; each step is checked when it is taken.

    spec = SpecBuilder.from_preset("baseline").with_training(epochs=3).build()

What is right stands in the schemas alone: a new setting needs no code here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, Unpack

from pipeline.files import write_atomic
from pipeline.spec import settings as typed
from pipeline.spec.author import ValuesError, on_corpus, overlay, problems_of, spec_of
from pipeline.spec.diagnose import Problem
from pipeline.spec.presets import read_preset
from pipeline.spec.rules import RULES
from pipeline.spec.schema import EXPERIMENT, schema_of
from pipeline.spec.spec import Spec
from pipeline.spec.typed import ALSO_TAKEN
from pipeline.spec.write import modeline, write_yaml

_FRAME = {"schema_version": 1, "kind": EXPERIMENT, "name": EXPERIMENT}


@dataclass(frozen=True)
class SpecBuilder:
    """Settings so far. Every method returns a new builder and leaves this one as it is.

    A value that cannot be right is refused by the method that is given it; two values that cannot be right together,
    as soon as both are there. What is never given keeps the default of the schema. An experiment without a
    `dataset.source` learns from the corpus that needs no files.

    Attributes:
        values: what has been given, by section.

    Raises:
        SpecError: by each method, when a setting is unknown or its value cannot be used; says what would be right.
    """

    values: Mapping[str, Any] = field(default_factory=lambda: dict(_FRAME))

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """Start from a preset: `SpecBuilder.from_preset("quick_prototype")`."""
        return cls({**_FRAME, "name": name, **read_preset(name).values})

    def with_name(self, name: str, notes: str = "") -> Self:
        """Name the experiment: `builder.with_name("first-try")`."""
        return self._with("with_name()", {"name": name, "notes": notes})

    def with_dataset(self, **settings: Unpack[typed.DatasetSettings]) -> Self:
        """Choose the text: `builder.with_dataset(source={"kind": "files", "paths": ["texts"]})`."""
        return self._with_section("dataset", settings)

    def with_tokenizer(self, **settings: Unpack[typed.TokenizerSettings]) -> Self:
        """Choose the tokenizer: `builder.with_tokenizer(tokenizer_type="bpe", vocab_size=8000)`."""
        return self._with_section("tokenizer", settings)

    def with_task(self, **settings: Unpack[typed.TaskSettings]) -> Self:
        """Say what the model is asked to do: `builder.with_task(task_name="plays")`."""
        return self._with_section("task", settings)

    def with_model(self, **settings: Unpack[typed.ModelSettings]) -> Self:
        """Choose the architecture: `builder.with_model(d_model=256, num_layers=6, num_heads=8, d_ff=1024)`."""
        return self._with_section("model", settings)

    def with_training(self, **settings: Unpack[typed.TrainingSettings]) -> Self:
        """Choose how the model learns: `builder.with_training(learning_rate=3e-4, batch_size=16, epochs=5)`."""
        return self._with_section("training", settings)

    def with_optimizer(self, **settings: Unpack[typed.OptimizerSettings]) -> Self:
        """Choose how gradients become updates: `builder.with_optimizer(weight_decay=0.01)`."""
        return self._with_section("optimizer", settings)

    def with_scheduler(self, **settings: Unpack[typed.SchedulerSettings]) -> Self:
        """Choose how the learning rate moves: `builder.with_scheduler(scheduler_type="linear", warmup_ratio=0.1)`."""
        return self._with_section("scheduler", settings)

    def with_hardware(self, **settings: Unpack[typed.HardwareSettings]) -> Self:
        """Choose what training runs on: `builder.with_hardware(device="cpu", num_threads=2)`."""
        return self._with_section("hardware", settings)

    def with_checkpointing(self, **settings: Unpack[typed.CheckpointingSettings]) -> Self:
        """Choose how much a killed run can lose: `builder.with_checkpointing(save_every_n_epochs=1)`."""
        return self._with_section("checkpointing", settings)

    def with_logging(self, **settings: Unpack[typed.LoggingSettings]) -> Self:
        """Choose what a run says: `builder.with_logging(sample_prompts=["To be, or"])`."""
        return self._with_section("logging", settings)

    def with_reproducibility(self, **settings: Unpack[typed.ReproducibilitySettings]) -> Self:
        """Choose seed and kernels: `builder.with_reproducibility(random_seed=7)`."""
        return self._with_section("reproducibility", settings)

    def with_validation(self, **settings: Unpack[typed.ValidationSettings]) -> Self:
        """Set the budgets: `builder.with_validation(budgets={"val_loss": 4.0, "model_mb": None})`."""
        return self._with_section("validation", settings)

    def with_export(self, **settings: Unpack[typed.ExportSettings]) -> Self:
        """Choose the formats: `builder.with_export(formats=["onnx"])`."""
        return self._with_section("export", settings)

    def build(self) -> Spec:
        """The whole spec, checked, complete and frozen.

        Raises:
            SpecError: what was given does not go together with what was left at its default.
        """
        return spec_of(on_corpus(self.values), "build()")

    def save(self, path: Path | str) -> Path:
        """Write the whole spec with a comment at every setting; returns the path.

        Raises:
            SpecError: as by `build`; then nothing is written.
        """
        path = Path(path)
        text = write_yaml(self.build().to_dict(), schema_of(), heading=modeline(path, EXPERIMENT))
        write_atomic(path, text)
        return path

    def _with_section(self, section: str, settings: Mapping[str, Any]) -> Self:
        given: dict[str, dict[str, Any]] = {section: {}}
        for name, value in settings.items():
            given.setdefault(ALSO_TAKEN.get(section, {}).get(name, section), {})[name] = value
        return self._with(f"with_{section}()", given)

    def _with(self, method: str, given: Mapping[str, Any]) -> Self:
        values = overlay(schema_of(), self.values, given)
        found = problems_of(on_corpus(values), method)
        if errors := [problem for problem in found if not problem.is_warning and _is_certain(problem, values)]:
            raise ValuesError(errors)
        return type(self)(values)


def _is_certain(problem: Problem, values: Mapping[str, Any]) -> bool:
    """Whether later calls cannot mend a problem: it is about one value, or all the values it is about are given."""
    reads = [rule.reads for rule in RULES[EXPERIMENT] if rule.code == problem.code]
    return not reads or any(all(_is_given(name, values) for name in names) for names in reads)


def _is_given(name: str, values: Mapping[str, Any]) -> bool:
    for key in name.split("."):
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True
