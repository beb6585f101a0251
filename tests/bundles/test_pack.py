"""What is packed, that it is the same bytes everywhere, and what is refused before a byte is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from forged import members_of
from recorded_run import RUN, commit, git, record
from tiny_models import flip, model_folder

from pipeline.bundles.content import Bundle
from pipeline.bundles.pack import create_repro_bundle
from pipeline.bundles.private import made_relative, private_in
from pipeline.cli import foundry
from pipeline.errors import ArtifactError, FoundryError
from pipeline.files import manifest_hash, output_folder, sha256_bytes, sha256_file
from pipeline.records.experiments import UnknownRunError
from pipeline.records.registry import ModelRegistry

pytestmark = pytest.mark.integration

# Written in parts, so that this file holds none: what it looks like → a text that looks so.
CREDENTIALS = {
    "password in an address": "https://me:" + "hunter2@example.org/x.txt",
    "token in an address": "https://" + "abcdef0123456789abcdef@example.org/x.txt",
    "signed query": "https://example.org/x?X-Amz-Signature=" + "0123456789abcdef",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "authorization": "Authorization: " + "Bearer abcdef0123456789",
    "aws": "AKIA" + "ABCDEFGHIJKLMNOP",
    "google": "AIza" + "x" * 35,
    "github": "ghp_" + "a1" * 18,
    "github-fine": "github_pat_" + "a1" * 11,
    "gitlab": "glpat-" + "a1" * 10,
    "hugging-face": "hf_" + "aB" * 17,
    "npm": "npm_" + "a1" * 18,
    "pypi": "pypi-" + "Ag" * 30,
    "api-key": "sk-" + "proj-abcdef0123456789",
    "slack": "xoxb-" + "0123456789-abc",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxMjM0In0.abcdefghijkl",
    "written-out": "wandb_api_key = " + "'0123456789abcdef'",
}
HARMLESS = (
    '"tokens_per_second": 5605.3, "token": "x", "eos_token": "</s>"',
    "https://example.org/a@b, git@github.com:me/x.git, ssh://git@github.com/x",
    f'"sha256": "{"ab" * 32}"',
    "password = read_password()",
    "risk-averse, task-oriented-programming-language",
    "/usr/bin/env python, /dev/null, https://example.org/home/page",
)


def pack(run: str | None = RUN, **options: Any) -> Path:
    return create_repro_bundle(run, "bundle.zip", **options)


def names_in(path: Path) -> set[str]:
    return set(members_of(path.read_bytes()))


def refused(reason: str, run: str | None = RUN, **options: Any) -> FoundryError:
    """Pack in vain: what was there stays, and nothing is left over."""
    before = {path.name for path in Path().iterdir()}
    with pytest.raises(FoundryError, match=reason) as caught:
        pack(run, **options)
    assert {path.name for path in Path().iterdir()} == before
    assert caught.value.hint
    return caught.value


# What is in a bundle


def test_a_run_is_packed_with_all_that_belongs_to_it(project):
    assert names_in(pack()) == {
        "bundle.json",
        "spec.json",
        "spec.lock.json",
        "record.json",
        "reports/training_metrics.json",
        "reports/history.csv",
        *(f"artifacts/model/{name}" for name in ("manifest.json", "model.json", "spec.json", "tokenizer.json")),
        "artifacts/model/tokenizer.model",
    }


def test_two_clones_pack_the_same_run_into_the_same_bytes(trained, tmp_path, monkeypatch):
    bundles = []
    for name in ("one", "two/deeper"):
        folder = tmp_path / name
        git(tmp_path, "clone", "--quiet", str(trained), str(folder))
        for ignored in ("artifacts", ".work"):
            shutil.copytree(trained / ignored, folder / ignored)
        for path in folder.rglob("*.json"):
            path.chmod(0o600 if name == "one" else 0o644)
        monkeypatch.chdir(folder)
        bundles.append(pack("latest", weights=True, plots={"run.svg": b"<svg/>"}).read_bytes())

    assert bundles[0] == bundles[1]


def test_the_same_run_has_the_same_bytes_under_every_name_of_it(project):
    assert pack("latest").read_bytes() == pack(RUN[:6]).read_bytes() == pack(None).read_bytes()


def test_weights_are_packed_on_request_and_are_those_of_the_manifest(project):
    with Bundle(pack(weights=True)) as bundle:
        packed, listed = bundle.read("artifacts/model/model.safetensors"), bundle.weights_sha256

    assert packed == Path("artifacts/model/model.safetensors").read_bytes()
    assert sha256_bytes(packed) == listed


def test_the_changes_of_a_run_are_its_patch(project):
    Path("pipeline/code.py").write_text("print(1)\n")
    patch = git(project, "diff", "HEAD") + "\n"
    record(project, git_dirty=True, git_diff=patch)

    members = members_of(pack().read_bytes())

    assert members["code.patch"].decode() == patch
    assert json.loads(members["record.json"])["git_diff"] == ""


def test_reports_of_another_training_are_left_out(project):
    metrics = json.loads(Path("reports/training_metrics.json").read_text())
    Path("reports/training_metrics.json").write_text(
        json.dumps({**metrics, "run_id": "11111111-0000-4000-8000-000000000000"})
    )

    assert not any(name.startswith("reports/") for name in names_in(pack()))


def test_a_registered_model_is_packed_after_the_folder_has_another(project):
    with ModelRegistry() as registry:
        registry.register_model(Path("artifacts/model"), tags=["production"])
    shutil.rmtree("artifacts/model")
    model_folder(Path("artifacts/model"), seed=5)

    by_run, by_tag = (members_of(pack(name).read_bytes()) for name in (RUN, "tiny:production"))

    assert by_run["artifacts/model/manifest.json"] == by_tag["artifacts/model/manifest.json"]
    assert json.loads(by_tag["bundle.json"])["model"] == "tiny@1.0.0"


def test_the_folder_of_a_project_without_a_record_is_packed_if_dvc_says_that_it_is_up_to_date(project):
    shutil.rmtree(".work")
    Path("dvc.yaml").write_text("stages:\n  done:\n    cmd: 'true'\n    deps: [pipeline/code.py]\n")
    git(project, "add", ".")
    for arguments in (["init", "--quiet"], ["repro", "--quiet"]):
        dvc(*arguments)

    bundle = pack(None)
    Path("pipeline/code.py").write_text("changed = True\n")

    assert "code.patch" in names_in(bundle)  # dvc.yaml differs from the commit
    refused("changed since is done", None)


def dvc(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], check=True, capture_output=True)


def test_the_command_says_what_it_packed_and_how_to_recognise_it(project):
    done = CliRunner().invoke(foundry, ["bundle", "pack", "latest", "--weights"], catch_exceptions=False)

    path = Path(f"repro_{RUN}.zip")
    assert done.exit_code == 0, done.output
    assert f"sha256      {sha256_file(path)}" in done.stdout.splitlines()
    assert f"run         {RUN}" in done.stdout.splitlines()
    assert "plots/run.svg" in names_in(path)
    verified = CliRunner().invoke(foundry, ["bundle", "verify", str(path)], catch_exceptions=False)
    assert verified.stdout == done.stdout


# What must not leave


def test_variables_of_the_environment_are_never_packed(project, monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "its-value-0123")

    raw = pack().read_bytes()

    assert b"its-value-0123" not in raw
    assert b"SOME_VARIABLE" not in raw


@pytest.mark.parametrize("kind", CREDENTIALS)
def test_what_looks_like_a_credential_is_refused_and_not_repeated(project, kind):
    record(project, notes=f"fetched with {CREDENTIALS[kind]}")

    error = refused("what looks like")

    assert CREDENTIALS[kind] not in str(error)
    assert error.where.startswith("record.json:")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_reads_like_one_is_packed(text):
    assert [*private_in(text)] == []


def test_a_credential_in_a_patch_is_refused(project):
    record(project, git_dirty=True, git_diff=f"diff --git a/x b/x\n+{CREDENTIALS['github']}\n")

    assert refused("a token of GitHub").where == "code.patch:2"


def test_a_path_of_this_machine_in_a_report_is_refused(project):
    path = Path("reports/training_metrics.json")
    metrics = json.loads(path.read_text())
    metrics["samples"][0]["text"] = f"{project}/texts"
    path.write_text(json.dumps(metrics))

    assert refused("a path of this machine").where == "reports/training_metrics.json:1"


def test_paths_in_the_record_are_made_relative(project):
    record(project, notes=f"{project}/texts was fine, /home/someone/x was not")

    kept = json.loads(members_of(pack().read_bytes())["record.json"])

    assert kept["notes"] == "./texts was fine, ~/x was not"


def test_only_whole_folders_are_made_relative(project):
    assert made_relative([f"{project}-other/x"]) == [f"{project}-other/x"]


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset.source": {"kind": "files", "paths": ["/data/texts"]}},
        {"dataset.source": {"kind": "files", "paths": ["texts", "../other"]}},
        {"dataset.source": {"kind": "url", "url": "file:///data/x.txt"}},
        {"training.resume_from_checkpoint": "~/models/x"},
    ],
)
def test_a_spec_that_leads_out_of_the_project_is_refused(project, settings):
    retrain(project, settings)

    refused("leads out of the project")


def test_a_spec_that_reports_to_a_service_is_refused(project):
    retrain(project, {"logging.use_wandb": True, "logging.wandb_mode": "online"})

    refused("would report to the service")


def retrain(project: Path, settings: dict[str, Any]) -> None:
    """Put a model there that was made by another spec, and its record."""
    shutil.rmtree("artifacts/model")
    model_folder(Path("artifacts/model"), changes=settings)
    record(project)


# What cannot be proven


def test_a_run_that_did_not_succeed_is_refused(project):
    record(project, status="failed")

    refused("is failed")


def test_a_run_whose_model_was_replaced_is_refused(project):
    shutil.rmtree("artifacts/model")
    model_folder(Path("artifacts/model"), seed=5)

    refused("is neither in artifacts/model nor registered")


def test_a_run_outside_of_git_is_refused(project):
    record(project, git_commit=None)

    refused("was in no git repository")


@pytest.mark.parametrize("patch", ["diff --git a/x b/x\nBinary files a/x and b/x differ\n", "diff\n+\ufffd\n"])
def test_a_patch_that_does_not_hold_all_of_the_changes_is_refused(project, patch):
    record(project, git_dirty=True, git_diff=patch)

    refused("not UTF-8 text")


def test_a_damaged_model_is_refused(project):
    flip(Path("artifacts/model/tokenizer.model"))

    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        pack()


def test_names_of_nothing_are_refused(project):
    with pytest.raises(UnknownRunError):
        pack("ffff")
    refused("there is no model registry here", "tiny:production")
    shutil.rmtree(".work")
    refused("no run is recorded here yet")


def test_a_model_of_an_unknown_run_is_refused(project):
    with ModelRegistry() as registry:
        registry.register_model(Path("artifacts/model"))
    shutil.rmtree(".work")

    refused("no record of the run that trained tiny@1.0.0", "tiny@1.0.0")


def test_code_that_git_does_not_know_is_refused(project):
    shutil.rmtree(".work")
    Path("dvc.yaml").write_text("stages: {}\n")
    dvc("init", "--quiet")
    Path("pipeline/new.py").write_text("x = 1\n")

    error = refused("git does not know this file", None)

    assert error.hint == "git add -N pipeline/new.py"


def test_a_bundle_that_cannot_be_made_leaves_the_earlier_one(project):
    before = pack().read_bytes()
    record(project, notes=CREDENTIALS["aws"])

    refused("a key of AWS")

    assert Path("bundle.zip").read_bytes() == before


# Data


def with_corpus(project: Path, source: dict[str, Any], inputs: dict[str, str]) -> None:
    """A model whose corpus is there, built from `inputs`."""
    shutil.rmtree("artifacts")
    model_folder(Path("artifacts/model"), changes={"dataset.source": source})
    with output_folder(Path("artifacts/corpus"), stage="corpus", sections={}, inputs=inputs):
        pass
    made_from = {"corpus": manifest_hash(Path("artifacts/corpus"))}
    with output_folder(Path("artifacts/tokenizer"), stage="tokenizer", sections={}, inputs=made_from):
        pass
    manifest = json.loads(Path("artifacts/model/manifest.json").read_text())
    manifest["inputs"] = {"tokenizer": manifest_hash(Path("artifacts/tokenizer"))}
    Path("artifacts/model/manifest.json").write_text(json.dumps(manifest))
    record(project)


def test_own_texts_are_packed_under_their_names(project):
    text = Path("texts/one.txt")
    with_corpus(project, {"kind": "files", "paths": ["texts"]}, {"texts/one.txt": sha256_file(text)})

    members = members_of(pack(data=True).read_bytes())

    assert members["data/texts/one.txt"] == text.read_bytes()
    assert "artifacts/corpus/manifest.json" in members


def test_texts_that_are_not_those_of_the_corpus_are_refused(project):
    text = Path("texts/one.txt")
    with_corpus(project, {"kind": "files", "paths": ["texts"]}, {"texts/one.txt": sha256_file(text)})

    text.write_text("changed\n")
    refused("has changed since the corpus was built", data=True)
    Path("texts/two.txt").write_text("new\n")
    text.unlink()
    refused("which has gone", data=True)


def test_data_that_something_could_act_upon_is_refused(project):
    Path("texts/run.py").write_text("print(1)\n")
    inputs = {"texts/run.py": sha256_file(Path("texts/run.py"))}
    with_corpus(project, {"kind": "files", "paths": ["texts/*.py"]}, inputs)

    assert refused("cannot have this member", data=True).where == "data/texts/run.py"


def test_a_corpus_that_was_built_again_is_refused_as_data(project):
    refused("is not the corpus of this model", data=True)


def test_a_download_is_packed_under_its_hash(project):
    wheel, sha256 = b"a wheel", sha256_bytes(b"a wheel")
    source = {"kind": "wheel", "package": "x", "version": "1", "members": ["*.md"], "sha256": sha256}
    with_corpus(project, source, {"x==1": sha256})
    refused("is not there any more", data=True)
    there = Path(".work/downloads") / sha256 / "x-1-py3-none-any.whl"
    there.parent.mkdir(parents=True)
    there.write_bytes(wheel)

    assert members_of(pack(data=True).read_bytes())[f"downloads/{sha256}/{there.name}"] == wheel


def test_a_source_that_is_not_pinned_is_refused_as_data(project):
    with_corpus(project, {"kind": "url", "url": "https://example.org/x.txt"}, {"https://example.org/x.txt": "0" * 64})

    error = refused("is fetched anew each time", data=True)

    assert error.hint.startswith(f"set dataset.source.sha256 to {'0' * 64}")


def test_a_project_in_a_subfolder_names_the_folder(project, monkeypatch):
    inner = project / "inner"
    inner.mkdir()
    for name in ("pipeline", "dvc.yaml", "texts", "reports"):
        git(project, "mv", name, f"inner/{name}")
    commit(project)
    for name in ("artifacts", ".work"):
        shutil.move(name, inner / name)
    monkeypatch.chdir(inner)
    record(inner)

    with Bundle(pack()) as bundle:
        assert bundle.index["code"]["folder"] == "inner"
