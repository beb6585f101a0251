"""An experiment without sections: `TrainingConfig(learning_rate=1e-3, d_model=256)`.

Names of settings are unique across sections, so the schema alone says where each belongs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self, Unpack

from pipeline.errors import FoundryError
from pipeline.files import write_atomic
from pipeline.paths import SPECS
from pipeline.spec.author import ValuesError, complete, spec_of
from pipeline.spec.diagnose import Problem
from pipeline.spec.difference import NOT_THERE, differences
from pipeline.spec.load import load_spec
from pipeline.spec.names import NAMES
from pipeline.spec.nearest import closest
from pipeline.spec.presets import read_preset
from pipeline.spec.schema import EXPERIMENT, resolve, schema_of
from pipeline.spec.settings import FlatSettings
from pipeline.spec.spec import Section, Spec
from pipeline.spec.typed import flat_settings, sections
from pipeline.spec.words import listed
from pipeline.spec.write import inline, modeline, write_yaml

MODES = ("fast_dev", "standard_experiment", "ablation_sweep")  # presets that a notebook starts from
_NOT_COMPARED = ("name",)  # two runs of the same settings have two names
_ORIGIN = "the configuration"  # what stands in messages instead of a file


class TrainingConfig:
    """The settings of an experiment by their names alone; frozen.

    Names are checked at once, values by `validate`, without which nothing is saved, hashed or turned into a spec. What
    is not given has the default of the schema: `config.epochs`. Sections can be read, too: `config.training.epochs`.

    Raises:
        SpecError: a name is not that of a setting.
    """

    __slots__ = ("_values",)

    def __init__(self, **settings: Unpack[FlatSettings]) -> None:
        homes, strange = flat_settings(), []
        values: dict[str, Any] = {}
        for name, value in settings.items():
            if name not in homes:
                strange.append(_unknown(name))
            elif len(homes[name]) == 1:
                values[name] = value
            else:
                values.setdefault(homes[name][0], {})[name] = value
        if strange:
            raise ValuesError(strange)
        object.__setattr__(self, "_values", values)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The same from values by section, as a preset or `Spec.to_dict` has them."""
        flat = {name: value for name, value in values.items() if name in ("name", "notes")}
        for section in sections():
            flat.update(values.get(section, {}))
        return cls(**flat)  # the names are checked there

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read and check a file.

        Raises:
            SpecError: it cannot be read, or something in it is wrong, an unknown key too.
        """
        return cls.from_values(load_spec(path).to_dict())

    def validate(self) -> Spec:
        """The whole spec.

        Raises:
            SpecError: something is wrong; one line for each problem.
        """
        return spec_of(self._complete(), _ORIGIN)

    def to_dict(self) -> dict[str, Any]:
        """Every setting by section, as plain values.

        Raises:
            SpecError: as by `validate`.
        """
        return self.validate().to_dict()

    def to_yaml(self) -> str:
        """The text that `save` writes.

        Raises:
            SpecError: as by `validate`.
        """
        return write_yaml(self.to_dict(), schema_of())

    def save(self, path: Path | str | None = None) -> Path:
        """Write every setting with a comment; returns the path.

        Args:
            path: the file; by default a new one in this folder, `config_20260131_235959.yaml` for this second.

        Raises:
            SpecError: as by `validate`; then nothing is written.
            FoundryError: there is a configuration of this second already.
        """
        target = Path(f"config_{datetime.now():%Y%m%d_%H%M%S}.yaml" if path is None else path)  # noqa: DTZ005 - local
        if path is None and target.exists():
            raise FoundryError("a configuration of this second exists already", where=str(target), hint="name a file")
        write_atomic(target, write_yaml(self.to_dict(), schema_of(), heading=modeline(target, EXPERIMENT)))
        return target

    def hash(self) -> str:
        """The SHA-256 of all settings; equal for equal ones, whenever they were made.

        Raises:
            SpecError: as by `validate`.
        """
        return self.validate().hash()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        keys = (name,) if name in sections() else flat_settings().get(name)
        if keys is None:
            problem = _unknown(name)
            raise AttributeError(f"{problem.message}; {problem.hint}" if problem.hint else problem.message)
        found: Any = Section("", resolve(schema_of(), self._complete()))
        for key in keys:
            found = getattr(found, key)
        return found

    def _complete(self) -> dict[str, Any]:
        return complete(EXPERIMENT, self._values.get("name", EXPERIMENT), self._values)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a configuration cannot be changed: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TrainingConfig) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.hash())

    def __repr__(self) -> str:
        given = {name: value for name, value in self._values.items() if name not in sections()}
        for section in sections():
            given |= self._values.get(section, {})
        return f"TrainingConfig({', '.join(f'{name}={value!r}' for name, value in given.items())})"


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
    config = TrainingConfig.from_values(read_preset(name).values)
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


def compare_configs(first: TrainingConfig, second: TrainingConfig) -> dict[str, dict[str, Any]]:
    """How two configurations differ, with every default filled in; names are not compared.

    Returns:
        `changed`: setting → (value in the first, in the second); `added` and `removed`: setting → value, for what only
        one of the two has, as the keys of another kind of source.

    Raises:
        SpecError: one of them is not valid.
    """
    found: dict[str, dict[str, Any]] = {"changed": {}, "added": {}, "removed": {}}
    for each in differences(first.validate(), second.validate()):
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
    """Print what `compare_configs` finds, a line for each setting.

    Raises:
        SpecError: one of them is not valid.
    """
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
