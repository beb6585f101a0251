"""Every file of data that the toolkit writes has a schema, and is checked by it when written and when read."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_run import COPIED, TINY, WORDS, Project

from pipeline.artefacts import ARTEFACTS, artefact_schema, check_artefact, kind_of, mismatches
from pipeline.commands.artefacts_page import PAGE, artefacts_page
from pipeline.data.documents import read_split
from pipeline.data.download import fetch_url
from pipeline.errors import ArtifactError, CorpusError
from pipeline.files import parse_artefact, read_artefact, write_artefact
from pipeline.stages.trackers import Trackers
from pipeline.stages.train_record import Record

# What a run leaves that is not data of a schema, and why.
OTHER_FORMATS = {
    "corpus/test.jsonl": "empty: this corpus has no test split",
    "*.safetensors": "tensors; model.json and the manifest describe them",
    "*.bin": "arrays of numbers; tokenizer.json describes them",
    "tokenizer.model": "SentencePiece's own format",
    "model.torchscript.pt": "TorchScript",
    "health_report.md": "for people; health_report.json holds the same",
    "bundle/*.py": "code",
    "bundle/serving/*.py": "code",
    "bundle/README.md": "the model card, for people",
    "bundle/Dockerfile": "for Docker",
    "requirements.txt": "for pip",
    "REPRODUCE.md": "for people",
    "SHA256SUMS": "for sha256sum",
    "lock": "names the process that holds a folder",
    "experiments.db": "SQLite; the files in records/ hold the same",
}
SETTINGS = {
    **TINY,
    "training.max_steps": 300,
    "checkpointing.save_every_n_steps": 10,
    "logging.sample_prompts": ["the"],
    "logging.sample_max_new_tokens": 3,
    "export.formats": ["pytorch", "torchscript"],
    "export.export_bundle": True,
}
# Mappings whose keys belong to another schema, or to whoever made the entry.
OPEN = {
    ("manifest", "sections"): "settings of the spec",
    ("training_metrics", "configuration"): "the resolved spec",
    ("checkpoint_state", "spec"): "the resolved spec",
    ("model", "model"): "arguments of the model's class",
    ("health_report", "details"): "figures of one check",
    ("tiers_report", "details"): "figures of one check",
    ("lock", "settings"): "settings of the spec",
    ("run_record", "config"): "the resolved spec",
    ("run_record", "metadata"): "of a manifest or a report",
    ("resume_certificate", "settings"): "settings of the spec",
    ("resume_certificate", "overrides"): "settings of the spec",
}
# Kinds that a command of its own writes, whose tests hold it to the schema.
ELSEWHERE = {
    "lock": "foundry lock",
    "repro_bundle": "foundry bundle pack",
    "resume_certificate": "foundry prove-resume",
    "tiers_report": "foundry tiers",
    **dict.fromkeys(("pictures", "picture_report", "picture_tokenizer_report"), "stages at work on pictures"),
}
KINDS = [kind for kind in ARTEFACTS if kind not in ELSEWHERE]


# A real file of every kind


@pytest.fixture(scope="module")
def run(checkout, tmp_path_factory) -> Path:
    """A project in which `foundry run` was stopped while it trained, and then run to its end.

    What the stopped run left in `.work/runs` lies in `stopped/runs`.
    """
    folder = tmp_path_factory.mktemp("run")
    for name in COPIED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_of = shutil.copytree if (checkout / name).is_dir() else shutil.copy
        copy_of(checkout / name, target)
    (folder / "texts").mkdir()
    for number in range(20):
        line = " ".join(WORDS[number % 7 :] + WORDS[: number % 5])
        (folder / "texts" / f"{number}.txt").write_text(f"{line} {number}.\n" * 30)
    project = Project(folder)
    project.set(SETTINGS)
    project.git("init", "--quiet")
    process = project.start("run")
    wait_until(process, lambda: any(folder.glob(".work/runs/*/checkpoint-*/manifest.json")))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 75, err
    shutil.copytree(folder / ".work/runs", folder / "stopped/runs")
    code, _, err = project.run("run")
    assert code == 0, err
    return folder


def wait_until(process: subprocess.Popen[str], true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            pytest.fail(f"it never came to that: {process.communicate()[1]}")
        time.sleep(0.01)


@pytest.fixture(scope="module")
def download_validator(tmp_path_factory) -> Path:
    """What a download leaves that the server cut off."""

    class CutOff(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("ETag", '"first"')
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"the beginning")

        def log_message(self, *_: object) -> None:
            pass

    downloads = tmp_path_factory.mktemp("downloads")
    with ThreadingHTTPServer(("127.0.0.1", 0), CutOff) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(CorpusError):
            fetch_url(
                f"http://127.0.0.1:{server.server_port}/text",
                downloads=downloads,
                sha256=None,
                max_bytes=1000,
                pause=0,
            )
        server.shutdown()
    (path,) = downloads.glob("partial/*.validator.json")
    return path


@pytest.fixture(scope="module")
def real(run, download_validator) -> dict[str, Path]:
    """Kind → a file of it that the toolkit wrote."""
    files = {kind_of(path): path for path in left_by(run)}
    return {**files, "download_validator": download_validator}


def left_by(run: Path) -> Iterator[Path]:
    """Every file that a run, and one that was stopped, left."""
    for name in ("artifacts", "reports", ".work", "stopped"):
        yield from (path for path in sorted((run / name).rglob("*")) if path.is_file())


# Files that are wrong in one way


def version_key(kind: str) -> str | None:
    keys = artefact_schema(kind)["properties"].keys() & {"format_version", "schema_version"}
    return keys.pop() if keys else None


def retype(kind: str, row: dict[str, Any], key: str) -> None:
    row[key] = {} if isinstance(row[key], list | tuple) else []


def remove(kind: str, row: dict[str, Any], key: str) -> None:
    del row[key]


def add(kind: str, row: dict[str, Any], key: str) -> None:
    row["surprise"] = 1


def of_tomorrow(kind: str, row: dict[str, Any], key: str) -> None:
    row[version_key(kind)] += 1


def of_yesterday(kind: str, row: dict[str, Any], key: str) -> None:
    row[version_key(kind)] -= 1


CHANGES = [retype, remove, add, of_tomorrow, of_yesterday]
CASES = [
    pytest.param(kind, change, id=f"{kind}-{change.__name__}")
    for kind in KINDS
    for change in CHANGES
    if version_key(kind) or change not in (of_tomorrow, of_yesterday)
]


def rows_of(kind: str, path: Path) -> list[dict[str, Any]]:
    value = read_artefact(path, kind)
    return [value] if ARTEFACTS[kind].form == "json" else value


def changed(kind: str, path: Path, change: Callable[..., None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each way to make a change to what a file holds: the key it is about, and the rows."""
    first = rows_of(kind, path)[0]
    keys = [key for key in artefact_schema(kind)["required"] if key in first]
    for key in keys if change in (retype, remove) else ["surprise" if change is add else version_key(kind)]:
        rows = copy.deepcopy(rows_of(kind, path))
        for row in rows if ARTEFACTS[kind].form == "csv" else rows[:1]:
            change(kind, row, key)
        yield key, rows


def raw_text(kind: str, rows: list[dict[str, Any]]) -> str:
    """The text of a file, whatever it holds."""
    if ARTEFACTS[kind].form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_toolkit_writes_is_what_its_schema_says(real, kind):
    assert rows_of(kind, real[kind])


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "change"), CASES)
def test_a_file_that_is_wrong_in_one_way_is_refused_with_the_command_that_mends_it(real, tmp_path, kind, change):
    path = tmp_path / real[kind].name

    for key, rows in changed(kind, real[kind], change):
        path.write_text(raw_text(kind, rows), encoding="utf-8")
        with pytest.raises(ArtifactError) as caught:
            read_artefact(path, kind)

        assert caught.value.where.startswith(str(path))
        assert key in caught.value.message or ARTEFACTS[kind].form == "csv"
        assert f"build it again with: {ARTEFACTS[kind].rebuild}" in caught.value.hint


@pytest.mark.e2e
@pytest.mark.parametrize("kind", [kind for kind in KINDS if version_key(kind)])
def test_a_file_of_a_later_version_names_the_version_that_reads_it(real, tmp_path, kind):
    ((_, rows),) = changed(kind, real[kind], of_tomorrow)
    has_writer = "toolkit_version" in rows[0]
    if has_writer:
        rows[0]["toolkit_version"] = "7.8.9"
    path = tmp_path / real[kind].name
    path.write_text(raw_text(kind, rows), encoding="utf-8")

    with pytest.raises(ArtifactError, match=r"2 is newer than 1") as caught:
        read_artefact(path, kind)

    assert ("Model Foundry 7.8.9, which wrote it" if has_writer else "a newer Model Foundry") in caught.value.message


@pytest.mark.e2e
@pytest.mark.parametrize(("kind", "change"), CASES)
def test_a_wrong_value_is_not_written_and_what_was_there_stays(real, tmp_path, kind, change):
    path = tmp_path / "artefact"
    path.write_text("as it was")

    for _, rows in changed(kind, real[kind], change):
        with pytest.raises(AssertionError, match=f"no {kind}"):
            write_artefact(path, kind, rows[0] if ARTEFACTS[kind].form == "json" else rows)

    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_written_with_the_same_bytes(real, tmp_path, kind):
    write_artefact(tmp_path / "artefact", kind, read_artefact(real[kind], kind))

    again = (tmp_path / "artefact").read_text(encoding="utf-8")
    assert parse_artefact(again, kind, "again") == read_artefact(real[kind], kind)
    if ARTEFACTS[kind].form == "json":
        assert again == real[kind].read_text(encoding="utf-8")


@pytest.mark.e2e
def test_every_file_that_a_run_leaves_has_a_schema_or_a_reason_not_to(run):
    unknown = []
    for path in left_by(run):
        kind = kind_of(path)
        if kind is not None and path.stat().st_size:
            read_artefact(path, kind)
        elif not any(path.match(pattern) for pattern in OTHER_FORMATS):
            unknown.append(str(path.relative_to(run)))

    assert unknown == []


@pytest.mark.e2e
def test_every_other_format_is_one_that_a_run_leaves(run):
    files = list(left_by(run))

    assert [pattern for pattern in OTHER_FORMATS if not any(path.match(pattern) for path in files)] == []


@pytest.mark.e2e
@pytest.mark.parametrize("change", [retype, remove, add])
def test_a_split_refuses_every_document_that_the_schema_refuses(real, tmp_path, change):
    path = tmp_path / "train.jsonl"

    for key, rows in changed("document", real["document"], change):
        path.write_text(raw_text("document", rows))
        with pytest.raises(ArtifactError, match=key) as caught:
            list(read_split(path))

        assert caught.value.where == f"{path}:1"
        assert caught.value.hint == "build it again with: foundry run --from corpus --force"


@pytest.mark.e2e
def test_a_damaged_record_of_a_run_names_the_line_and_what_to_do(real, tmp_path):
    path = tmp_path / "record.jsonl"
    first, *others = real["training_record"].read_text().splitlines(keepends=True)
    path.write_text(first + "\0\0\0\n" + "".join(others))

    with pytest.raises(ArtifactError, match="not valid JSON") as caught:
        Record(path, resumed_step=1, log_every_n_steps=1, sample=list, memory=dict, trackers=Trackers({}), shown=None)

    assert caught.value.where == f"{path}:2"
    assert caught.value.hint == f"build it again with: rm {path} && foundry run"


@pytest.mark.unit
@pytest.mark.parametrize("name", [path.name for path in sorted(Path(__file__).parents[1].glob("reports/*.*"))])
def test_the_committed_reports_are_what_their_schemas_say(checkout, name):
    path = checkout / "reports" / name

    kind = kind_of(path)

    assert kind or name == "health_report.md"
    if kind:
        assert read_artefact(path, kind)


# The table and the schemas


@pytest.mark.unit
def test_every_schema_has_a_row_and_every_row_a_schema(checkout):
    schemas = {path.stem for path in (checkout / "schemas/v1/artefact").glob("*.json")}
    named = {kind for kind, row in ARTEFACTS.items() if not row.schema}

    assert named <= schemas
    assert all(artefact_schema(kind)["title"] and artefact_schema(kind)["description"] for kind in ARTEFACTS)


@pytest.mark.unit
@pytest.mark.parametrize("kind", [kind for kind, row in ARTEFACTS.items() if not row.schema])
def test_a_schema_is_closed_and_says_what_each_value_is(kind):
    def walk(name: str, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        yield name, schema
        for key, child in schema.get("properties", {}).items():
            yield from walk(key, child)
        if isinstance(schema.get("items"), dict):
            yield from walk(f"{name}[]", schema["items"])
        if isinstance(schema.get("additionalProperties"), dict):
            yield from walk(f"{name}.*", schema["additionalProperties"])

    schema = artefact_schema(kind)
    whole = {"": schema, **schema.get("$defs", {})}
    everything = [pair for name, part in whole.items() for pair in walk(name, part)]

    opened = {name for name, part in everything if part.get("type") == "object" and "additionalProperties" not in part}
    assert opened <= {name for owner, name in OPEN if owner == kind}
    named = [(key, child) for _, part in everything for key, child in part.get("properties", {}).items()]
    assert [key for key, child in named if "description" not in child and "$ref" not in child] == []


@pytest.mark.unit
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("reports/tokenizer.json", "tokenizer_report"),
        ("artifacts/tokenizer/tokenizer.json", "tokenizer"),
        ("/elsewhere/export/pytorch/model.json", "model"),
        (".work/status/dvc.json", "dvc_outcome"),
        (".work/status/tokenizer.json", "stage_status"),
        (".work/runs/0123/checkpoint-00000010/state.json", "checkpoint_state"),
        ("specs/experiment.yaml", None),
        ("package.json", None),
    ],
)
def test_a_file_is_known_by_its_name(path, kind):
    assert kind_of(Path(path)) == kind


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": float("nan")}, "`seconds` must be a finite number, but is NaN"),
        ({"pid": True}, "`pid` must be a whole number, but is true"),
        ({"pid": -1}, "`pid` must be at least 0, but is -1"),
        ({"phase": "asleep"}, '`phase` must be one of "running", "done", "failed", but is "asleep"'),
        ({"time": "2026-01-01T00:00:00+00:00\n"}, "`time` must have at most 25 characters"),
        ({"code": "x" * 100}, f'`code` must be a whole number or null, but is "{"x" * 59}…'),
    ],
)
def test_a_mismatch_says_where_what_is_allowed_and_what_is_there(change, message):
    status = {
        "format_version": 1,
        "stage": "train",
        "phase": "done",
        "code": 0,
        "message": "",
        "hint": "",
        "pid": 1,
        "run": "",
        "seconds": 1.0,
        "time": "2026-01-01T00:00:00+00:00",
    }
    assert mismatches("stage_status", status) == []

    (found,) = mismatches("stage_status", {**status, **change})

    assert str(found).startswith(message)


@pytest.mark.unit
def test_a_place_inside_a_list_is_named_and_the_rest_is_counted():
    samples = [{"prompt": "a", "text": 7, "new_tokens": 0}, {"prompt": "a"}]

    with pytest.raises(ArtifactError) as caught:
        check_artefact("samples", {"format_version": 1, "samples": samples}, "samples.json")

    assert str(caught.value).startswith("samples.json: `samples[0].text` must be text, but is 7 (and 2 more): ")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"format_version": 1', "not valid JSON"),
        ('{"unit": NaN}', "NaN is not a number of JSON"),
        ("[" * 100_000, "nests too deeply"),
        ("[]", "it must be a mapping, but is []"),
    ],
)
def test_a_file_that_is_no_json_of_ours_is_refused(tmp_path, text, message):
    path = tmp_path / "latencies.json"
    path.write_text(text)

    with pytest.raises(ArtifactError, match=message.replace("[", r"\[")) as caught:
        read_artefact(path, "latencies")

    assert caught.value.where == str(path)
    assert caught.value.hint == "build it again with: foundry run --from validate --force"


@pytest.mark.unit
def test_a_missing_file_and_one_that_is_not_text_say_how_to_make_it(tmp_path):
    path = tmp_path / "model.json"

    with pytest.raises(ArtifactError, match="missing") as missing:
        read_artefact(path, "model", rebuild="make it")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="not UTF-8") as binary:
        read_artefact(path, "model", rebuild="make it")

    assert missing.value.hint == binary.value.hint == "build it again with: make it"


@pytest.mark.unit
def test_a_history_with_other_columns_or_a_short_row_is_refused():
    columns = ",".join(artefact_schema("history")["properties"])

    for text, where in [("", "x:1"), ("step,loss\n1,2\n", "x:1"), (f"{columns}\n1,2\n", "x:2")]:
        with pytest.raises(ArtifactError) as caught:
            parse_artefact(text, "history", "x")
        assert caught.value.where == where


@pytest.mark.unit
def test_the_page_of_artefacts_is_fresh():
    text = PAGE.read_text(encoding="utf-8")

    assert text == artefacts_page(), "write it again: python -m pipeline.commands.artefacts_page"


@pytest.mark.unit
def test_knowing_the_artefacts_does_not_load_jsonschema():
    script = "import sys, pipeline.artefacts, pipeline.files, pipeline.cli; sys.exit('jsonschema' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
