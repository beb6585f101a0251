"""What is wrong with a spec, where, and how to mend it: problems as values, and their text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.errors import FoundryError

# A code is for good: it is never given another meaning, so that people can search for it.
CODES = {
    "E0101": "the file cannot be read",
    "E0102": "the file is too large for a spec",
    "E0103": "the file is not UTF-8",
    "E0104": "not valid YAML",
    "E0105": "the file is empty",
    "E0106": "more than one document",
    "E0107": "not a mapping at the top",
    "E0108": "a key stands twice",
    "E0109": "a key is not text",
    "E0110": "a YAML tag",
    "E0111": "a merge key",
    "E0112": "too deep, too many values or too many aliases",
    "E0113": "a number that is not finite or does not fit 64 bits",
    "E0114": "text that is not valid Unicode",
    "E0201": "unknown key",
    "E0202": "a key in the wrong section",
    "E0203": "a key that another kind takes",
    "E0204": "a key is missing",
    "E0205": "a section is not a mapping",
    "E0206": "a schema version that is not known",
    "E0207": "a kind of document that is not known",
    "E0301": "wrong type",
    "E0302": "a number or word in quotes",
    "E0303": "out of range",
    "E0304": "not one of the choices",
    "E0305": "text of the wrong form",
    "E0306": "too short or too long",
    "E0307": "an item stands twice",
    "E0308": "a report that does not fit its schema",
    "E0401": "num_heads does not divide d_model",
    "E0402": "num_kv_heads does not divide num_heads",
    "E0403": "rotary positions need an even head size",
    "E0404": "nothing is left to train on",
    "E0405": "the split to validate on is empty",
    "E0406": "more warmup than steps",
    "E0407": "warmup and decay overlap",
    "E0408": "the vocabulary has no room for text",
    "E0409": "a special token that is always there",
    "E0410": "numbers of CUDA devices for a processor",
    "E0411": "several machines for a strategy of one process",
    "E0412": "an epsilon that float16 cannot hold",
    "E0413": "a loss scale for parts of a model",
    "E0414": "a start from what training makes",
    "E0421": "task for another kind of source",
    "E0422": "pictures of an unknown kind of colour",
    "E0423": "model for another kind of task",
    "E0424": "groups of a norm that do not divide its channels",
    "E0431": "classes that come from nowhere, or from two places",
    "E0432": "pairs that come from nowhere, or are of no use",
    "E0433": "pairs whose source is cut or hidden",
    "E0434": "no token to hide others behind",
    "E0441": "a bundle that cannot serve its model",
    "E0442": "a format that cannot carry the model",
    "E0443": "8-bit weights without a way to make them",
    "E0601": "a configuration of an earlier system",
    "E0602": "a configuration of one of several earlier systems",
    "E0603": "neither a document of today nor one of an earlier system",
    "E0604": "a key that the earlier system did not have",
    "E0605": "a meaning that no setting has",
    "E0606": "two keys of one setting that differ",
    "E0607": "a model or task that cannot be trained",
    "E0608": "a text of which only the name is known",
    "E0701": "a hole without a parameter",
    "E0702": "a parameter that nothing uses",
    "E0703": "a parameter without a fitting default or example",
    "E0704": "a template that makes no valid document",
    "E0501": "a model family that does not fit the task",
    "E0502": "a loss that does not fit the task",
    "E0503": "a modality that does not fit the task",
    "E0504": "the number of classes is missing",
    "E0505": "the shape of an input is missing",
    "E0506": "as many values as channels are needed",
    "E0507": "a metric that does not fit the task",
    "E0508": "inputs too short to have a target",
    "E0511": "limits in the wrong order",
    "E0521": "a sweep over a setting that does not exist",
    "E0522": "a sweep over a value that the setting does not take",
    "E0523": "a range without width",
    "E0524": "a grid over a range without steps",
    "E0525": "a sweep without an end",
    "E0526": "a range with both step and points",
    "E0527": "values of a sweep that no experiment can have together",
    "E0528": "a sweep by a figure that no run has",
    "E0529": "a sweep that does not know what is better",
    "E0531": "a trigger without a limit",
    "E0532": "two triggers of one name",
    "E0541": "LoRA without a rank",
    "E0542": "training quantized weights",
    "E0543": "a strategy about tools without tools",
    "E0544": "a teacher that generates nothing",
    "E0545": "two tools of one name",
    "E0546": "a required argument that is not described",
    "W0101": "an unusual value",
    "W0102": "a value that nothing reads",
    "W0103": "a value that this version cannot act upon",
    "W0104": "a strategy for several devices on one",
    "W0105": "mixed precision asked for in float32",
    "W0106": "float32 on a GPU",
    "W0107": "less than one step of warmup",
    "W0108": "compilation that a short run does not earn back",
    "W0109": "an interval beyond the last step",
    "W0110": "no format but a deprecated one",
    "W0111": "a path that is not in the project",
    "W0112": "a vocabulary too large for its corpus",
    "W0113": "a step larger than an epoch",
    "W0114": "a prompt that hides nothing",
    "W0201": "more memory than fine-tuning needs",
    "W0202": "a high learning rate for fine-tuning",
    "W0203": "code of strangers is run",
    "W0211": "a grid larger than its budget",
    "W0212": "a password in a document",
    "W0213": "a direction away from the best",
    "W0214": "a sweep of an experiment that is not there",
}

_MOST = 50  # problems that an error shows; all are in its `problems`
_WIDTH = 160  # characters of a source line that are shown


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong (codes E) or odd (codes W) in a spec.

    Attributes:
        code: a key of `CODES`.
        message: what is wrong, in one sentence without a full stop.
        file: the file as it was named by the caller.
        path: where in the spec, dotted: `training.learning_rate`; empty for the whole file.
        line: line in the file, from 1; 0 when there is none, as for a missing file.
        column: column of the line, from 1.
        length: how many characters of the line are meant.
        source: the text of that line.
        allowed: what would be right, or nothing when the message says it.
        hint: what to do, or nothing when there is no good guess.
    """

    code: str
    message: str
    file: str
    path: str = ""
    line: int = 0
    column: int = 0
    length: int = 1
    source: str = ""
    allowed: str = ""
    hint: str = ""

    @property
    def is_warning(self) -> bool:
        """Whether the spec works all the same."""
        return self.code.startswith("W")

    @property
    def where(self) -> str:
        """`file:line:column`, or the file alone."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def __str__(self) -> str:
        return render(self)


class SpecError(FoundryError, ValueError):
    """A spec that cannot be used; `problems` holds everything that is wrong with it, in the order of the file.

    Args:
        problems: at least one.
        hint: what to do; without it, to mend them and to check again.
    """

    def __init__(self, problems: Iterable[Problem], *, hint: str = "") -> None:
        self.problems = tuple(problems)
        file = self.problems[0].file
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        details = "\n\n".join(render(problem) for problem in self.problems[:_MOST])
        if len(self.problems) > _MOST:
            details += f"\n\n… and {len(self.problems) - _MOST} more"
        mend = f"mend {'it' if len(self.problems) == 1 else 'them'} ({count}), then run: foundry check {file}"
        mend = "" if self.problems[0].code == "E0101" else mend.replace("<stdin>", "-")  # no file: nothing to check
        super().__init__(f"the spec has {count}\n\n{details}\n", where=file, hint=hint or mend)


def render(problem: Problem) -> str:
    """A problem as a compiler shows it: what, where, the line with a mark under it, what is allowed, what to do."""
    kind = "warning" if problem.is_warning else "error"
    margin = " " * len(str(problem.line))
    lines = [f"{kind}[{problem.code}]: {problem.message}", f"{margin}--> {problem.where}"]
    if problem.line:
        before, source = _clipped(problem)
        indent = "".join("\t" if character == "\t" else " " for character in before)
        marks = "^" * max(1, min(problem.length, len(source) - len(before)))
        lines += [f"{margin} |", f"{problem.line} | {source}", f"{margin} | {indent}{marks}"]
    if problem.allowed:
        lines.append(f"{margin} = allowed: {problem.allowed}")
    if problem.hint:
        lines.append(f"{margin} = help: {problem.hint}")
    return "\n".join(lines)


def _clipped(problem: Problem) -> tuple[str, str]:
    """What stands before the column, and the line: both cut to what a screen shows around the column."""
    start = max(0, problem.column - _WIDTH // 2) if len(problem.source) > _WIDTH else 0
    before, source = problem.source[start : problem.column - 1], problem.source[start : start + _WIDTH]
    return (f"…{before}", f"…{source}") if start else (before, source)
