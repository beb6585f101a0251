"""How two specs differ, what each difference changes, and whether a run could go on with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from pipeline.paths import STAGES
from pipeline.spec.document import Document
from pipeline.spec.schema import leaves, schema_of
from pipeline.spec.spec import Spec
from pipeline.spec.write import inline

# What a setting changes: `x-effect` in words, from the most to the least. What a schema does not mark counts in full.
EFFECTS = {"result": "the result", "speed": "only speed", "output": "only output", "none": "nothing"}

SAFE, RESULT, IMPOSSIBLE = "safe", "changes the result", "impossible"
# Settings that decide which weights there are and what each one stands for, beside all that makes the vocabulary.
ARCHITECTURE = (
    "task.task_type",
    "model.model_type",
    "model.d_model",
    "model.num_layers",
    "model.num_heads",
    "model.num_kv_heads",
    "model.d_ff",
    "model.max_seq_len",
    "model.tie_embeddings",
    "model.qk_norm",
    "model.activation",
    "model.short_conv",
    "model.stage_channels",
    "model.blocks_per_stage",
    "model.norm_groups",
)
_MAKE_VOCABULARY = ("corpus", "tokenizer")  # stages
_FEEDS = {  # stage → the stages that read its output
    "corpus": ("tokenizer",),
    "tokenizer": ("train", "validate", "export"),
    "train": ("validate", "export"),
    "validate": (),
    "export": (),
}


class _NotThere:
    """Stands for a setting that one of the two specs does not have, because its branch has none."""

    def __repr__(self) -> str:
        return "(not there)"


NOT_THERE = _NotThere()


@dataclass(frozen=True, slots=True)
class Difference:
    """A setting that two specs resolve differently.

    Attributes:
        path: the dotted setting.
        old: its resolved value in the first; `NOT_THERE` when it has none.
        new: the same in the second.
        effect: a key of `EFFECTS`.
        stages: the stages that read it.
    """

    path: str
    old: Any
    new: Any
    effect: str
    stages: tuple[str, ...]

    @property
    def section(self) -> str:
        """The section it stands in; empty at the top."""
        return self.path.split(".")[0] if "." in self.path else ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a changed spec means for a run under way.

    Attributes:
        verdict: `safe`: the run can go on; `changes the result`: another run, although its weights would fit;
            `impossible`: another text, vocabulary or architecture, for which its weights mean nothing.
        paths: the settings that make it so; none when it is safe.
    """

    verdict: str
    paths: tuple[str, ...]


def differences(old: Spec, new: Spec) -> list[Difference]:
    """The settings that two specs of one kind resolve differently, in the order of the schema."""
    return differences_of(old.to_dict(), new.to_dict(), kind=old.kind)


def differences_of(old: dict[str, Any], new: dict[str, Any], *, kind: str) -> list[Difference]:
    """The same for resolved values, as `Spec.to_dict` gives them."""
    found = []
    for keys, schema in leaves(schema_of(kind)):
        before, after = _at(old, keys), _at(new, keys)
        if before != after:
            effect, stages = schema.get("x-effect", "result"), tuple(schema.get("x-stages", ()))
            found.append(Difference(".".join(keys), before, after, effect, stages))
    return found


def classify_change(old: Spec, new: Spec) -> Change:
    """Whether a run of the old spec could go on with the new one."""
    return classify(differences(old, new))


def classify(found: Iterable[Difference]) -> Change:
    """The same for differences that are known."""
    shaping = [each for each in found if each.effect == "result"]
    foreign = [each for each in shaping if each.path in ARCHITECTURE or set(each.stages) & set(_MAKE_VOCABULARY)]
    if foreign:
        return Change(IMPOSSIBLE, tuple(each.path for each in foreign))
    return Change(RESULT if shaping else SAFE, tuple(each.path for each in shaping))


def stages_to_run(found: Iterable[Difference]) -> list[str]:
    """The stages whose results differ: those that read a difference, and those after them."""
    again = {stage for each in found if each.effect in ("result", "output") for stage in each.stages}
    for stage in STAGES:  # in their order, so that what is added is followed too
        if stage in again:
            again.update(_FEEDS[stage])
    return [stage for stage in STAGES if stage in again]


def shown(value: Any, document: Document | None = None, path: str = "") -> str:
    """A value for people: a scalar as its file writes it, or as YAML spells it when it is a default."""
    written = "" if document is None else document.texts.get(tuple(path.split(".")), "")
    if written and isinstance(value, int | float) and not isinstance(value, bool):
        return written
    return repr(value) if value is NOT_THERE else inline(value)


def changed_items(old: Any, new: Any) -> Iterator[tuple[str, Any]]:
    """The items of two lists that came and went: (`-`, item) and (`+`, item), in the order of the lists.

    Where items only changed places, those that moved go and come.
    """
    before, after = [inline(item) for item in old], [inline(item) for item in new]
    for action, start, end, first, last in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if action != "equal":
            yield from (("-", item) for item in old[start:end])
            yield from (("+", item) for item in new[first:last])


def _at(values: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return NOT_THERE
        values = values[key]
    return values


def render(found: Iterable[Difference], old: Document | None = None, new: Document | None = None) -> str:
    """Differences for people: by effect, then by section; numbers as their files write them, lists item by item."""
    found = list(found)
    lines = []
    for effect, words in EFFECTS.items():
        mine = [each for each in found if each.effect == effect]
        lines += [f"changes {words}:"] if mine else []
        for section in dict.fromkeys(each.section for each in mine):
            lines += [f"  {section}"] if section else []
            for each in mine:
                if each.section == section:
                    lines += _lines(each, old, new)
    return "\n".join(lines)


def _lines(each: Difference, old: Document | None, new: Document | None) -> list[str]:
    name = each.path.removeprefix(f"{each.section}.")
    indent = "    " if each.section else "  "
    if isinstance(each.old, list) and isinstance(each.new, list):
        items = [f"{indent}  {sign} {inline(item)}" for sign, item in changed_items(each.old, each.new)]
        return [f"{indent}{name}", *items]
    return [f"{indent}{name}: {shown(each.old, old, each.path)} → {shown(each.new, new, each.path)}"]
