"""An experiment without sections: `TrainingConfig(learning_rate=1e-3, d_model=256)`.

Names of settings are unique across sections, so the schema alone says where each belongs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self, Unpack

from pipeline.errors import FoundryError
from pipeline.files import write_atomic
from pipeline.paths import SPECS
from pipeline.spec.author import ValuesError, complete, spec_of
from pipeline.spec.diagnose import Problem, SpecError
from pipeline.spec.difference import NOT_THERE, differences
from pipeline.spec.document import value_at
from pipeline.spec.load import load_spec
from pipeline.spec.names import NAMES
from pipeline.spec.nearest import closest
from pipeline.spec.presets import expand, read_preset
from pipeline.spec.schema import EXPERIMENT, resolve, schema_of
from pipeline.spec.settings import FlatSettings
from pipeline.spec.spec import Spec
from pipeline.spec.typed import flat_settings, sections
from pipeline.spec.words import listed
from pipeline.spec.write import inline, modeline, write_yaml

MODES = ("fast_dev", "standard_experiment", "ablation_sweep")  # presets that a notebook starts from
_NOT_COMPARED = ("name",)  # two runs of the same settings have two names
_ORIGIN = "the configuration"  # what stands in messages instead of a file


@dataclass(frozen=True, init=False, repr=False)
class TrainingConfig:
    """The settings of an experiment by their names alone; checked, complete and frozen.

    What is not given has the default of the schema: `config.epochs`. Sections can be read, too:
    `config.training.epochs`.

    Attributes:
        spec: the same as what the stages read.

    Raises:
        SpecError: a name is not that of a setting, or a value cannot be used; one line for each problem.
    """

    spec: Spec

    def __init__(self, **settings: Unpack[FlatSettings]) -> None:
        homes = flat_settings()
        problems = [_unknown(name) for name in settings if name not in homes]
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if len(keys := homes.get(name, ())) == 1:
                values[name] = value
            elif keys:
                values.setdefault(keys[0], {})[name] = value
        try:
            spec = spec_of(complete(EXPERIMENT, EXPERIMENT, values), _ORIGIN)
        except SpecError as error:
            raise ValuesError([*problems, *error.problems]) from None
        if problems:
            raise ValuesError(problems)
        object.__setattr__(self, "spec", spec)

    @classmethod
    def from_spec(cls, spec: Spec) -> Self:
        """A spec of an experiment, as `load_spec` returns it, with names alone."""
        config = cls.__new__(cls)
        object.__setattr__(config, "spec", spec)
        return config

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read and check a file: `TrainingConfig.load("specs/experiment.yaml")`.

        Raises:
            SpecError: it cannot be read, or something in it is wrong, an unknown key too.
        """
        return cls.from_spec(load_spec(path))

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is odd in it without being wrong (codes W)."""
        return self.spec.warnings

    def to_dict(self) -> dict[str, Any]:
        """Every setting by section, as plain values."""
        return self.spec.to_dict()

    def to_yaml(self) -> str:
        """Every setting with a comment, as `save` writes it."""
        return write_yaml(self.to_dict(), schema_of())

    def to_json(self) -> str:
        """Every setting as JSON, which is read like YAML."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def save(self, path: Path | str | None = None) -> Path:
        """Write every setting, and return the path: `config.save("specs/experiment.yaml")`.

        Args:
            path: the file, as JSON when its name ends in .json; by default a new one in this folder,
                `config_20260131_235959.yaml` for this second.

        Raises:
            FoundryError: there is a configuration of this second already.
        """
        target = Path(f"config_{datetime.now():%Y%m%d_%H%M%S}.yaml" if path is None else path)  # noqa: DTZ005 - local
        if path is None and target.exists():
            raise FoundryError("a configuration of this second exists already", where=str(target), hint="name a file")
        as_yaml = write_yaml(self.to_dict(), schema_of(), heading=modeline(target, EXPERIMENT))
        write_atomic(target, self.to_json() if target.suffix == ".json" else as_yaml)
        return target

    def hash(self) -> str:
        """The hash of its lock: equal for settings that give the same result, whenever they were made."""
        return self.spec.hash()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "spec":  # also what copy and pickle ask for
            raise AttributeError(name)
        keys = (name,) if name in sections() else flat_settings().get(name)
        if keys is None:
            problem = _unknown(name)
            raise AttributeError(f"{problem.message}; {problem.hint}" if problem.hint else problem.message)
        found: Any = self.spec
        for key in keys:
            found = getattr(found, key)
        return found

    def __repr__(self) -> str:
        values, usual = self.to_dict(), resolve(schema_of(), {"name": EXPERIMENT})
        told = {
            keys[-1]: value_at(values, keys)
            for keys in flat_settings().values()
            if value_at(values, keys) != value_at(usual, keys)
        }
        return f"TrainingConfig({', '.join(f'{name}={value!r}' for name, value in told.items())})"


def build_configs_for_mode(mode: str) -> tuple[TrainingConfig, Spec, Spec]:
    """The settings of a mode, its task and its evaluation: `build_configs_for_mode("FAST_DEV")`.

    Args:
        mode: one of `MODES`, in upper or lower case.

    Raises:
        FoundryError: there is no such mode.
    """
    name = mode.lower()
    if name not in MODES:
        meant = closest(name, MODES)
        hint = f"did you mean {meant}?" if meant else f"modes are {listed(MODES, 'and')}"
        raise FoundryError(f"there is no mode called {mode}", hint=hint)
    config = TrainingConfig.from_spec(expand(read_preset(name)))
    task = load_spec(SPECS / "tasks" / f"{config.task_name}.yaml", "task")
    evaluation = {
        "dataset_id": f"{config.task_name}_v1",
        "split": "validation",
        "max_eval_examples": 16,
        "batch_size": max(2, config.batch_size),
        "max_seq_length": config.max_seq_len,
        "eval_interval_steps": 100,
    }
    return config, task, spec_of(complete("evaluation", name, evaluation), name, "evaluation")


def plain_spec(config: TrainingConfig | Spec) -> Spec:
    """The spec, whichever of its two forms a caller has."""
    return config.spec if isinstance(config, TrainingConfig) else config


def compare_configs(first: TrainingConfig, second: TrainingConfig) -> dict[str, dict[str, Any]]:
    """How two configurations differ, with every default filled in; names are not compared.

    Returns:
        `changed`: setting → (value in the first, in the second); `added` and `removed`: setting → value, for what only
        one of the two has, as the keys of another kind of source.
    """
    found: dict[str, dict[str, Any]] = {"changed": {}, "added": {}, "removed": {}}
    for each in differences(first.spec, second.spec):
        if each.path in _NOT_COMPARED:
            continue
        if each.old is NOT_THERE:
            found["added"][each.path] = each.new
        elif each.new is NOT_THERE:
            found["removed"][each.path] = each.old
        else:
            found["changed"][each.path] = (each.old, each.new)
    return found


def print_config_diff(first: TrainingConfig, second: TrainingConfig) -> None:
    """Print what `compare_configs` finds, a line for each setting."""
    found = compare_configs(first, second)
    lines = [f"{path}: {inline(old)} -> {inline(new)}" for path, (old, new) in found["changed"].items()]
    lines += [f"{path}: added {inline(value)}" for path, value in found["added"].items()]
    lines += [f"{path}: removed {inline(value)}" for path, value in found["removed"].items()]
    print("\n".join(lines) or "no differences")


def _unknown(name: str) -> Problem:
    homes = flat_settings()
    others = [target.rpartition(".")[2] for target in NAMES.get(name.lower(), ())]
    meant = next((other for other in others if other in homes), None) or closest(name, homes)
    hint = f"did you mean `{meant}`?" if meant else ""
    return Problem("E0201", f"`{name}` is not a setting of an experiment", _ORIGIN, path=name, hint=hint)
