"""The wheel holds everything, and works when installed elsewhere."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(checkout)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of programs of an environment that holds the wheel, and the packages of this one by reference."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, symlinks=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # The wheel itself is really installed. What it needs is large and already here; without the .pth files of that
    # folder, one of which is this checkout's editable install.
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True, text=True)
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "python"), "-m", "pipeline", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_wheel_holds_the_package_with_its_schemas_and_specs_and_nothing_else(wheel, checkout):
    names = set(zipfile.ZipFile(wheel).namelist())

    schemas = {f"pipeline/_shipped/{p.relative_to(checkout)}" for p in (checkout / "schemas").rglob("*.json")}
    modules = {str(p.relative_to(checkout)) for p in (checkout / "pipeline").rglob("*.py")}
    migrations = {str(p.relative_to(checkout)) for p in (checkout / "pipeline").rglob("*.sql")}
    assert schemas | modules | migrations | {"pipeline/_shipped/specs/experiment.yaml"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pipeline", "model_foundry"}


def test_an_installed_wheel_finds_its_own_schemas(installed, tmp_path):
    script = "import pipeline.paths; print(pipeline.paths.SCHEMAS)"

    done = subprocess.run(
        [installed / "python", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    schemas = Path(done.stdout.strip())
    assert schemas.is_relative_to(installed.parent)
    assert (schemas / "v1" / "experiment.json").is_file()


def test_an_installed_wheel_checks_a_spec_outside_any_checkout(installed, tmp_path, checkout):
    spec = tmp_path / "mine.yaml"
    spec.write_bytes((checkout / "specs" / "experiment.yaml").read_bytes())

    done = run(installed, tmp_path, "check", "mine.yaml")

    assert (done.returncode, done.stdout) == (0, "mine.yaml: ok (shakespeare-tiny)\n")


def test_an_installed_wheel_shows_its_help_quickly(installed, tmp_path):
    run(installed, tmp_path, "--help")  # writes the bytecode, as any first run does

    started = time.monotonic()
    done = run(installed, tmp_path, "--help")
    seconds = time.monotonic() - started

    assert done.returncode == 0
    assert "generate" in done.stdout
    assert seconds < 0.4 * 5  # 0.1 s when nothing else is running; the machine may be shared
