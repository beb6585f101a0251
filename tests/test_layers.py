"""Which room may import which: the table of the house, checked against every import statement."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

FLOOR = {"errors", "artefacts", "files", "paths", "ranks", "console", "revision", "memory", "directions", "closing"}
ROOMS = {
    "spec",
    "records",
    "intake",
    "data",
    "models",
    "tasks",
    "training",
    "evaluation",
    "export",
    "tiers",
    "bundles",
    "sweeps",
}
DOORS = {"cli", "__main__", "commands", "stages", "web", "bench"}
MAY_IMPORT = {
    **{module: set() for module in FLOOR},
    "spec": set(),
    "records": {"spec"},
    "intake": {"spec"},
    "data": {"spec"},
    "models": {"spec", "intake"},
    "tasks": {"spec", "data", "models"},
    "training": {"spec", "data", "models", "tasks"},
    "evaluation": {"spec", "data", "models", "tasks"},
    "export": {"spec", "data", "models"},
    "sweeps": {"spec", "records"},
    "tiers": {"spec", "data", "models", "tasks", "training", "evaluation", "export"},
    "bundles": {"spec", "records", "data"},
    "stages": ROOMS,
    "web": ROOMS,
    "bench": ROOMS,
    "commands": ROOMS | {"stages", "bench"},
    "cli": ROOMS | {"commands", "stages"},
    "__main__": {"cli"},
}
HEAVY = ("torch", "dvc", "onnxruntime", "onnx", "sentencepiece", "numpy", "scipy", "pandas", "rich")


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """Every module of the package with the room it belongs to."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        if parts != ("__init__.py",) and parts[0] != "_shipped":
            yield parts[0].removesuffix(".py"), path


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module == "pipeline":
                yield from ((node.lineno, f"pipeline.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def wrong_arrows(package: Path) -> list[str]:
    """Every import that the table does not allow, as `file:line: reason`."""
    wrong = []
    for room, path in modules(package):
        for line, name in imported(path):
            place = f"{path.relative_to(package.parent)}:{line}"
            if name.startswith(".."):
                wrong.append(f"{place}: relative import out of a room")
            if not name.startswith("pipeline."):
                continue
            target = name.split(".")[1]
            if target not in {room, "__version__"} | FLOOR | MAY_IMPORT.get(room, set()):
                wrong.append(f"{place}: {room} imports {target}")
    return wrong


def imports_of(statement: str) -> set[str]:
    """The heavy packages that a fresh process has loaded after a statement."""
    script = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_every_room_stands_in_the_table(checkout):
    rooms = {room for room, _ in modules(checkout / "pipeline")}

    assert rooms <= FLOOR | ROOMS | DOORS


def test_no_import_points_up(checkout):
    assert wrong_arrows(checkout / "pipeline") == []


@pytest.mark.parametrize(
    ("room", "statement", "reason"),
    [
        ("models", "from pipeline.training import loop", "models imports training"),
        ("models", "def late():\n    import pipeline.cli", "models imports cli"),
        ("spec", "from pipeline import stages", "spec imports stages"),
        ("training", "import pipeline.evaluation.metrics", "training imports evaluation"),
        ("data", "from ..spec import load_spec", "relative import out of a room"),
    ],
)
def test_an_arrow_that_points_up_is_found(tmp_path, room, statement, reason):
    module = tmp_path / "pipeline" / room / "module.py"
    module.parent.mkdir(parents=True)
    module.write_text(statement)

    found = wrong_arrows(tmp_path / "pipeline")

    assert len(found) == 1
    assert found[0].endswith(reason)


def test_reading_a_spec_loads_nothing_heavy():
    assert imports_of("import pipeline.spec; pipeline.spec.load_spec('specs/experiment.yaml')") == set()


def test_the_help_of_the_command_line_loads_nothing_heavy():
    statement = "import pipeline.cli\ntry: pipeline.cli.main(['--help'])\nexcept SystemExit: pass"

    assert imports_of(statement) == set()
