"""What is compared: this folder, a commit, an experiment of DVC, or a recorded run, each with settings and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.commands.run_tables import short
from pipeline.errors import ArtifactError, FoundryError
from pipeline.paths import DEFAULT_SPEC, REPORTS
from pipeline.records.experiments import AmbiguousRunError, ExperimentDB, UnknownRunError, default_database
from pipeline.records.git_history import commit_of, subject_of, texts_of
from pipeline.records.reports import KINDS, metrics_of, parse_reports, reports_in
from pipeline.spec import SpecError
from pipeline.spec.document import parse_document
from pipeline.spec.load import build_spec

NOW = "now"  # the name of this folder as it is


@dataclass(frozen=True)
class State:
    """Settings, and what was measured with them.

    Attributes:
        name: what it was named by; of a run the whole identity.
        heading: the same, short enough for a column.
        about: what it is, in some words.
        settings: the resolved spec; where it is wrong, or of another version, as it was written.
        metrics: rows as the records have them: `metric_name`, `value`, `step`, …
    """

    name: str
    heading: str
    about: str
    settings: Mapping[str, Any]
    metrics: list[dict[str, Any]]


def find_state(name: str, database: Path | None = None) -> State:
    """The state that a name stands for.

    Args:
        name: `now`; a revision as git understands it; an experiment of DVC; a recorded run, by the beginning of its
            identity, or `latest`.
        database: where runs are recorded; None: where `foundry run` records them.

    Raises:
        FoundryError: it stands for nothing, for more than one thing, or for a commit that holds nothing of ours.
    """
    if name == NOW:
        return _of_folder()
    commit, record = commit_of(name), _record(name, database or default_database())
    if commit and record:
        message = f"{name} is a commit and a run"
        raise FoundryError(message, hint=f"say more of it: {commit[:16]} or {record['run_id'][:16]}")
    if commit:
        return _of_commit(name, commit)
    if record:
        return state_of_record(record)
    hint = "name a commit, a branch, a tag, an experiment (`dvc exp list`), a run (`foundry runs list`), or `now`"
    raise FoundryError(f"{name} is no revision, no experiment and no run", hint=hint)


def state_of_record(record: Mapping[str, Any]) -> State:
    """The state of a recorded run; `record` is what `ExperimentDB.get_record` returns."""
    about = f"run {record['run_name']}, {record['created_at'][:16].replace('T', ' ')}, {record['status']}"
    return State(record["run_id"], short(record["run_id"]), about, record["config"], record["metrics"])


def _record(name: str, path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    with ExperimentDB(path) as database:
        try:
            return database.get_record(database.resolve(name))
        except AmbiguousRunError:
            raise
        except UnknownRunError:
            return None


def _of_folder() -> State:
    texts = reports_in()
    if DEFAULT_SPEC.is_file():
        texts["spec"] = DEFAULT_SPEC.read_text(encoding="utf-8", errors="replace")
    return _of_texts(NOW, "this folder", texts, prefix="")


def _of_commit(name: str, commit: str) -> State:
    texts = texts_of(commit, {"spec": DEFAULT_SPEC, **{report: REPORTS / report for report in KINDS}})
    return _of_texts(name, f"commit {commit[:12]}, {subject_of(commit)}", texts, prefix=f"{name}:")


def _of_texts(name: str, about: str, texts: dict[str, str], *, prefix: str) -> State:
    if not texts:
        hint = "compare commits of a project, in its folder"
        raise FoundryError(f"neither {DEFAULT_SPEC} nor reports are there", where=about, hint=hint)
    spec = texts.pop("spec", None)
    reports: dict[str, Any] = {}
    for report, text in texts.items():
        try:
            reports |= parse_reports({report: text}, f"{prefix}{REPORTS}/")
        except ArtifactError as error:
            console.warn(f"left out: {error}")
    settings = {} if spec is None else _settings(spec, f"{prefix}{DEFAULT_SPEC}")
    return State(name, name, about, settings, metrics_of(reports))


def _settings(text: str, file: str) -> dict[str, Any]:
    """The settings of a spec with all defaults, or as they were written where today's schema does not take them."""
    document = parse_document(text.encode(), file)
    try:
        return build_spec(document).to_dict()
    except SpecError:
        return dict(document.values)
