"""A bundle repeats its run in another clone, or says what differs; what cannot be repeated leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from described import EXECUTION
from forged import indexed, members_of, zipped
from recorded_run import RUN, commit, git, record
from test_run import COPIED, TINY, WORDS, Project
from tiny_models import model_folder

from pipeline.bundles.comparison import compare
from pipeline.bundles.content import Bundle
from pipeline.bundles.pack import create_repro_bundle
from pipeline.bundles.packages import differing
from pipeline.bundles.replay import Plan, replay
from pipeline.errors import ExitCode, FoundryError
from pipeline.files import read_json, sha256_bytes, write_manifest
from pipeline.records.ledger import LedgerWriter
from pipeline.spec import load_spec


def in_vain(bundle: Path, reason: str, **plan: bool) -> FoundryError:
    """Replay in vain: nothing is left of the clone."""
    with pytest.raises(FoundryError, match=reason) as caught, Bundle(bundle) as opened:
        replay(opened, Plan(Path("into"), here=True, **plan))
    assert not Path("into").exists()
    return caught.value


def with_changes(sound: Path, tmp_path: Path, *, members: dict[str, bytes] | None = None, **index: object) -> Path:
    """The bundle with other members, or an index that says something else."""
    path = tmp_path / "changed.zip"
    path.write_bytes(zipped(indexed({**members_of(sound.read_bytes()), **(members or {})}, **index)))
    return path


# Before anything runs


@pytest.mark.integration
def test_a_patch_runs_only_when_asked_for_and_is_named(project, tmp_path):
    patch = "diff --git a/pipeline/code.py b/pipeline/code.py\n@@ -1 +1 @@\n-# old\n+# new\n"
    record(project, git_dirty=True, git_diff=patch)
    bundle = create_repro_bundle(RUN, tmp_path / "patched.zip")

    refused = in_vain(bundle, "a patch, which would run: it changes pipeline/code.py")
    unfit = in_vain(bundle, "does not fit its commit", with_patch=True)

    assert "--with-patch" in refused.hint
    assert "patch" in str(unfit)


@pytest.mark.integration
def test_a_commit_that_this_repository_lacks_is_named(sound, project, tmp_path):
    bundle = with_changes(sound, tmp_path, code={"commit": "0" * 40, "folder": ""})

    assert "git fetch" in in_vain(bundle, f"does not have the commit {'0' * 40}").hint


@pytest.mark.integration
def test_a_commit_of_another_project_is_refused(sound, project, tmp_path):
    git(project, "rm", "-q", "dvc.yaml")
    bundle = with_changes(sound, tmp_path, code={"commit": commit(project), "folder": ""})

    in_vain(bundle, "holds no Model Foundry project")


@pytest.mark.integration
def test_outside_of_a_repository_nothing_is_replayed(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    in_vain(sound, "not a git repository")


@pytest.mark.integration
def test_a_folder_that_is_there_is_left_alone(sound, project):
    Path("into").mkdir()

    with pytest.raises(FoundryError, match="a replay needs a new folder"), Bundle(sound) as bundle:
        replay(bundle, Plan(Path("into")))

    assert [*Path("into").iterdir()] == []


@pytest.mark.integration
@pytest.mark.parametrize(
    ("link", "member", "reason"),
    [
        (None, "data/texts/one.txt", "would replace one that is there"),
        ("elsewhere", "data/elsewhere/x.txt", "would lie outside the clone"),
    ],
)
def test_data_replaces_no_file_of_the_clone_and_follows_no_link(sound, project, tmp_path, link, member, reason):
    outside = tmp_path / "outside"
    outside.mkdir()
    if link:
        Path(link).symlink_to(outside)
    code = {"commit": commit(project) if link else git(project, "rev-parse", "HEAD"), "folder": ""}
    bundle = with_changes(sound, tmp_path, members={member: b"other words\n"}, code=code)

    in_vain(bundle, reason)

    assert [*outside.iterdir()] == []


@pytest.mark.integration
def test_the_code_of_the_commit_runs_on_the_spec_of_the_bundle_and_its_failure_is_that_of_the_replay(sound, project):
    Path("pipeline/__main__.py").write_text("raise SystemExit(0)\n")  # here, not in the commit

    with Bundle(sound) as bundle:
        with pytest.raises(FoundryError, match="the run that was repeated ended with 5") as caught:
            replay(bundle, Plan(Path("into"), here=True))

        assert caught.value.exit_code == ExitCode.VALIDATION
        assert load_spec(Path("into/specs/experiment.yaml")).to_dict() == bundle.spec.to_dict()


@pytest.mark.unit
def test_versions_of_packages_that_the_toolkit_uses_are_compared():
    numpy = version("numpy")
    packages = {"numpy": "0.1", "torch": version("torch").partition("+")[0], "ruff": "0.0.1", "of-nobody": "1"}

    assert differing(packages) == {"numpy": ("0.1", numpy)}


# Comparing


@pytest.mark.integration
@pytest.mark.parametrize(
    ("changes", "equal", "code"),
    [
        ({}, True, ExitCode.OK),
        ({"seed": 1}, False, ExitCode.TRAINING),
    ],
)
def test_other_weights_are_found_and_times_are_not_compared(sound, project, tmp_path, changes, equal, code):
    made = tmp_path / "made"
    spec = read_json(Path("artifacts/model/spec.json"))
    model_folder(made / "artifacts/model", changes={"dataset.source": spec["dataset"]["source"]} | THREADS, **changes)
    described = read_json(made / "artifacts/model/model.json")
    described["training"]["seconds"] = 1234.0
    (made / "artifacts/model/model.json").write_text(json.dumps(described))
    shutil.copytree("reports", made / "reports")

    with Bundle(sound) as bundle:
        verdict = compare(bundle, made)

    assert (verdict.equal, verdict.exit_code) == (equal, code)
    assert {row.name for row in verdict.rows if not row.equal} == (set() if equal else {WEIGHTS})
    assert verdict.execution == ()


THREADS = {"hardware.num_threads": 1}
WEIGHTS = "artifacts/model/model.safetensors"


@pytest.mark.integration
def test_other_figures_and_another_execution_are_named(sound, project, tmp_path):
    path = Path("reports/history.csv")
    path.write_text(path.read_text().replace("8.284702", "8.284703"))
    model = Path("artifacts/model/model.json")
    model.write_text(model.read_text().replace('"num_threads": 1', '"num_threads": 2'))

    with Bundle(sound) as bundle:
        verdict = compare(bundle, project)

    assert [row.name for row in verdict.rows if not row.equal] == ["reports/history.csv"]
    assert verdict.execution == ("num_threads: 1 there, 2 here",)


@pytest.mark.integration
def test_the_step_at_which_a_training_went_another_way_is_named(project, tmp_path):
    with_ledger(project / "artifacts/model", losses=(3.0, 2.0))
    record(project)
    bundle = create_repro_bundle(RUN, tmp_path / "with_ledger.zip")
    same, other = tmp_path / "same", tmp_path / "other"
    for folder, losses in ((same, (3.0, 2.0)), (other, (3.0, 2.5))):
        shutil.copytree(project, folder)
        (folder / "artifacts/model/ledger.jsonl").unlink()
        with_ledger(folder / "artifacts/model", losses=losses, python="3.12.0")

    with Bundle(bundle) as opened:
        equal, parted = compare(opened, same), compare(opened, other)

    assert equal.equal
    (row,) = (row for row in parted.rows if not row.equal)
    assert (row.packed, row.replayed[:36]) == ("2 steps", "parted at step 2 (epoch 1, batch 2):")
    assert parted.exit_code == ExitCode.TRAINING


def with_ledger(model: Path, *, losses: tuple[float, ...], python: str = "3.11.0") -> None:
    """Give a model a ledger with a step for each loss."""
    executed = {**EXECUTION, "strategy": "single", "processes": 1, "devices": 1, "python": python, "numpy": "2.0.0"}
    begin = {"inputs": {}, "code": {}, "tensors": ["embed"], "marked_every": 1, "weights": b"mark"}
    path = model.parent / "growing.jsonl"
    ledger = LedgerWriter(path, begin=lambda: begin, environment=executed, after_step=0, head=None)
    for step, loss in enumerate(losses, start=1):
        marks = {"gradients": b"mark", "weights": b"mark"}
        ledger.append(
            {"step": step, "epoch": 1, "batch": step, "data": "0" * 16, "loss": loss, "gradient_norm": 1.0} | marks
        )
    ledger.finish(model, steps=len(losses), weights=["model.safetensors"])
    write_manifest(model, stage="train", sections={}, inputs={})


# A run of every stage


@pytest.fixture(scope="module")
def origin(checkout, tmp_path_factory) -> Project:
    """A clone of the toolkit in which a run was made, with a change that was not committed."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        ignore = shutil.ignore_patterns("__pycache__")
        if (checkout / name).is_dir():
            shutil.copytree(checkout / name, folder / name, ignore=ignore)
        else:
            shutil.copy(checkout / name, folder / name)
    (folder / "texts").mkdir()
    for number in range(20):
        draw = random.Random(number)
        lines = [" ".join(draw.choices(WORDS, k=10)).capitalize() + "." for _ in range(40)]
        (folder / "texts" / f"{number}.txt").write_text("\n".join(lines) + "\n")
    project = Project(folder)
    project.set({**TINY, "export.formats": ["pytorch", "onnx", "torchscript"], "export.export_bundle": True})
    project.git("init", "--quiet", "--initial-branch", "main")
    project.git("add", ".")
    project.git("rm", "--quiet", "-r", "--cached", "texts")  # which git does not hold: they travel in the bundle
    project.git("commit", "--quiet", "-m", "Start")
    (folder / ".git/info/exclude").write_text("/texts/\n")
    return project


@pytest.mark.slow
@pytest.mark.e2e
def test_a_bundle_that_was_packed_in_one_clone_repeats_its_run_in_another(origin, tmp_path):
    cleaning = origin.folder / "pipeline/data/cleaning.py"
    cleaning.write_text(cleaning.read_text() + "\n# A change that is not committed.\n")
    code, _, err = origin.run("run")
    assert code == 0, err
    bundle = tmp_path / "run.zip"
    code, packed, err = origin.run("bundle", "pack", "latest", "--data", "-o", str(bundle))
    assert code == 0, err
    clone = tmp_path / "clone"
    origin.git("clone", "--quiet", str(origin.folder), str(clone))

    refused = Project(clone).run("bundle", "replay", str(bundle))
    code, out, err = Project(clone).run("bundle", "replay", str(bundle), "--with-patch", "--into", str(tmp_path / "r"))

    assert refused[0] == 1
    assert "it changes pipeline/data/cleaning.py" in refused[2]
    assert code == 0, err
    weights = re.search(r"^weights +([0-9a-f]{64}), not packed$", packed, re.MULTILINE)
    assert weights is not None
    assert out.splitlines()[-1] == f"equal: the weights are {weights[1]}"
    assert sha256_bytes((tmp_path / "r/artifacts/model/model.safetensors").read_bytes()) == weights[1]


@pytest.mark.slow
@pytest.mark.e2e
def test_a_bundle_whose_weights_differ_says_so_with_the_code_of_training(origin, tmp_path):
    bundle, other = tmp_path / "run.zip", tmp_path / "other.zip"
    code, _, err = origin.run("run")
    assert code == 0, err
    assert origin.run("bundle", "pack", "latest", "--data", "-o", str(bundle))[0] == 0
    members = members_of(bundle.read_bytes())
    manifest = json.loads(members["artifacts/model/manifest.json"])
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    members["artifacts/model/manifest.json"] = json.dumps(manifest).encode()
    other.write_bytes(zipped(indexed(members)))

    code, out, _ = origin.run("bundle", "replay", str(other), "--with-patch")

    assert code == 4
    assert "differs: artifacts/model/model.safetensors: 0000000000000000… in the bundle, " in out


@pytest.mark.slow
@pytest.mark.e2e
def test_a_replay_that_is_stopped_ends_its_run(origin, tmp_path):
    bundle = tmp_path / "run.zip"
    code, _, err = origin.run("run")
    assert code == 0, err
    assert origin.run("bundle", "pack", "latest", "--data", "-o", str(bundle))[0] == 0
    process = origin.start("bundle", "replay", str(bundle), "--with-patch", "--into", str(tmp_path / "r"))
    status = tmp_path / "r/.work/status"
    deadline = time.monotonic() + 120
    while not status.is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)

    assert process.returncode == 75
    assert "stopped by SIGTERM" in err
    pids = {read_json(path)["pid"] for path in status.glob("*.json") if path.name != "dvc.json"}
    assert pids
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_an_environment_is_made_with_the_versions_of_the_bundle(checkout, tmp_path):
    """Needs the package index, and 1.3 GB."""
    from pipeline.bundles.packages import build
    from pipeline.records.environment import environment

    packages = {**environment()["packages"], "tqdm": "4.66.5"}

    python = build(tmp_path / "new", checkout, packages)

    asked = "from importlib.metadata import version; print(version('tqdm'), version('torch'), version('model-foundry'))"
    done = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "4.66.5"
    assert done.stdout.split()[1].partition("+")[0] == version("torch").partition("+")[0]
    assert sys.prefix not in str(python)
