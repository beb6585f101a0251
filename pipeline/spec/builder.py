"""An experiment built step by step in Python; each step is checked when it is taken.

    config = TrainingConfigBuilder.baseline().with_training(epochs=3).build()

What is right stands in the schemas alone: a new setting needs no code here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, Unpack

from pipeline.spec import settings as typed
from pipeline.spec.author import ValuesError, on_corpus, overlay, problems_of, spec_of
from pipeline.spec.diagnose import Problem
from pipeline.spec.flat import TrainingConfig
from pipeline.spec.presets import read_preset
from pipeline.spec.rules import RULES
from pipeline.spec.schema import EXPERIMENT, leaves, schema_of
from pipeline.spec.typed import builder_parameters, methods_of

_FRAME = {"schema_version": 1, "kind": EXPERIMENT, "name": EXPERIMENT}


@dataclass(frozen=True)
class TrainingConfigBuilder:
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
        """Start from a preset: `TrainingConfigBuilder.from_preset("tiny")`.

        Raises:
            FoundryError: there is no preset of this name.
        """
        return cls({**_FRAME, "name": name, **read_preset(name).values})

    @classmethod
    def quick_prototype(cls) -> Self:
        """Start from a first look at an idea: `TrainingConfigBuilder.quick_prototype()`."""
        return cls.from_preset("quick_prototype")

    @classmethod
    def baseline(cls) -> Self:
        """Start from the GPT that others are measured against: `TrainingConfigBuilder.baseline()`."""
        return cls.from_preset("baseline")

    @classmethod
    def production(cls) -> Self:
        """Start from a model to ship: `TrainingConfigBuilder.production()`."""
        return cls.from_preset("production")

    @classmethod
    def distributed(cls) -> Self:
        """Start from a GPT for four GPUs: `TrainingConfigBuilder.distributed()`."""
        return cls.from_preset("distributed")

    @classmethod
    def low_memory(cls) -> Self:
        """Start from a GPT for a device with little memory: `TrainingConfigBuilder.low_memory()`."""
        return cls.from_preset("low_memory")

    def with_name(self, name: str, notes: str = "") -> Self:
        """Name the experiment: `builder.with_name("first-try")`."""
        return self._with("with_name", {"name": name, "notes": notes})

    def with_dataset(self, **settings: Unpack[typed.DatasetSettings]) -> Self:
        """Choose the text: `builder.with_dataset(source={"kind": "files", "paths": ["texts"]})`."""
        return self._with_settings("with_dataset", settings)

    def with_tokenizer(self, **settings: Unpack[typed.TokenizerSettings]) -> Self:
        """Choose the tokenizer: `builder.with_tokenizer(tokenizer_type="bpe", vocab_size=8000)`."""
        return self._with_settings("with_tokenizer", settings)

    def with_task(self, **settings: Unpack[typed.TaskSettings]) -> Self:
        """Say what the model is asked to do: `builder.with_task(task_name="plays")`."""
        return self._with_settings("with_task", settings)

    def with_model(self, **settings: Unpack[typed.ModelSettings]) -> Self:
        """Choose the architecture: `builder.with_model(d_model=256, num_layers=6, num_heads=8, d_ff=1024)`."""
        return self._with_settings("with_model", settings)

    def with_training(self, **settings: Unpack[typed.TrainingSettings]) -> Self:
        """Choose how the model learns: `builder.with_training(learning_rate=3e-4, batch_size=16, epochs=5)`."""
        return self._with_settings("with_training", settings)

    def with_optimizer(self, **settings: Unpack[typed.OptimizerSettings]) -> Self:
        """Choose how gradients become updates: `builder.with_optimizer(weight_decay=0.01)`."""
        return self._with_settings("with_optimizer", settings)

    def with_scheduler(self, **settings: Unpack[typed.SchedulerSettings]) -> Self:
        """Choose how the learning rate moves: `builder.with_scheduler(scheduler_type="linear", warmup_ratio=0.1)`."""
        return self._with_settings("with_scheduler", settings)

    def with_hardware(self, **settings: Unpack[typed.HardwareSettings]) -> Self:
        """Choose what training runs on: `builder.with_hardware(device="cpu", num_threads=2)`."""
        return self._with_settings("with_hardware", settings)

    def with_checkpointing(self, **settings: Unpack[typed.CheckpointingSettings]) -> Self:
        """Choose how much a killed run can lose: `builder.with_checkpointing(save_every_n_epochs=1)`."""
        return self._with_settings("with_checkpointing", settings)

    def with_logging(self, **settings: Unpack[typed.LoggingSettings]) -> Self:
        """Choose what a run says: `builder.with_logging(sample_prompts=["To be, or"])`."""
        return self._with_settings("with_logging", settings)

    def with_reproducibility(self, **settings: Unpack[typed.ReproducibilitySettings]) -> Self:
        """Choose seed and kernels: `builder.with_reproducibility(random_seed=7)`."""
        return self._with_settings("with_reproducibility", settings)

    def with_validation(self, **settings: Unpack[typed.ValidationSettings]) -> Self:
        """Set the budgets: `builder.with_validation(budgets={"val_loss": 4.0, "model_mb": None})`."""
        return self._with_settings("with_validation", settings)

    def with_export(self, **settings: Unpack[typed.ExportSettings]) -> Self:
        """Choose the formats: `builder.with_export(formats=["onnx"])`."""
        return self._with_settings("with_export", settings)

    def build(self) -> TrainingConfig:
        """The whole configuration, checked, complete and frozen: `builder.build()`.

        Raises:
            SpecError: what was given does not go together with what was left at its default.
        """
        return TrainingConfig.from_spec(spec_of(on_corpus(self.values), "build()"))

    def save(self, path: Path | str) -> Path:
        """Write the whole spec with a comment at every setting: `builder.save("specs/experiment.yaml")`.

        Raises:
            SpecError: as by `build`; then nothing is written.
        """
        return self.build().save(path)

    def _with_settings(self, method: str, settings: Mapping[str, Any]) -> Self:
        own = method.removeprefix("with_")
        homes = builder_parameters()[method]
        given: dict[str, dict[str, Any]] = {own: {}}
        for name, value in settings.items():
            section = homes[name][0] if name in homes else own  # where an unknown name is answered
            given.setdefault(section, {})[name] = value
        return self._with(method, given)

    def _with(self, method: str, given: Mapping[str, Any]) -> Self:
        values = overlay(schema_of(), self.values, given)
        found = problems_of(on_corpus(values), f"{method}()")
        if errors := [problem for problem in found if not problem.is_warning and _is_certain(problem, values)]:
            raise ValuesError(_in_calls(problem) for problem in errors)
        return type(self)(values)


def _in_calls(problem: Problem) -> Problem:
    """A problem as a caller understands it: a key belongs in a call, not under a line of a file."""
    if problem.code != "E0202":
        return problem
    return replace(problem, hint=_calls()[problem.path.rpartition(".")[2]])


@cache
def _calls() -> dict[str, str]:
    """Every name of a section or a setting → how the builder is given it."""
    calls: dict[str, str] = {}
    for keys, leaf in leaves():
        if methods := methods_of(leaf):
            inside = "".join(f"{key}=" for key in keys[1:-1])
            calls.setdefault(keys[-1], f"pass it to {methods[0]}({inside}…)")
            calls.setdefault(keys[0], f"call {methods[0]}(…)")
        else:
            calls[keys[-1]] = "leave it out: every experiment has the same"
    return calls


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
