"""`foundry new` and `foundry presets`: whole specs or none, and nothing overwritten."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from pipeline.commands import new, presets
from pipeline.errors import FoundryError
from pipeline.spec import load_spec
from pipeline.spec.document import read_document
from pipeline.spec.presets import PRESETS, TEMPLATES, names, read
from pipeline.spec.schema import leaves, schema_of

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(command, *arguments):
    """What a command prints; its errors come as they are."""
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_a_new_spec_is_complete_and_says_what_to_do_next(tmp_path):
    shown = run(new.command, "first", "--from", "tiny", "--set", "training.epochs=2", "--set", "export.formats=[onnx]")

    spec = load_spec("specs/first.yaml")
    assert (spec.name, spec.training.epochs, spec.export.formats, spec.model.d_model) == ("first", 2, ("onnx",), 128)
    assert shown.output.splitlines() == [
        "specs/first.yaml: written",
        "next: foundry check specs/first.yaml, foundry plan specs/first.yaml",
    ]


@pytest.mark.parametrize("name", [*names(PRESETS), *names(TEMPLATES)])
def test_every_setting_is_spelled_out_with_a_comment_in_the_order_of_the_schema(name):
    found = read(name)
    holes = [f"--param={key}={taken['example']}" for key, taken in getattr(found, "parameters", {}).items()
             if "example" in taken]  # fmt: skip

    run(new.command, "x", "--from", name, *holes)

    document, spec = read_document("specs/x.yaml"), load_spec("specs/x.yaml", None)
    order = [keys for keys, _ in leaves(schema_of(document.kind)) if keys in document.places]
    assert set(spec.leaves()) == {".".join(keys) for keys in order}
    assert [keys for keys in document.keys if keys in set(order)] == order
    said = " ".join("\n".join(document.lines).replace("#", " ").split())
    described = [leaf["description"] for keys, leaf in leaves(schema_of(document.kind)) if keys in set(order)]
    assert [text for text in described if " ".join(text.split()) not in said] == []


def test_without_a_start_a_spec_has_the_defaults():
    run(new.command, "plain")

    assert (
        load_spec("specs/plain.yaml").training.batch_size
        == schema_of()["properties"]["training"]["properties"]["batch_size"]["default"]
    )


def test_an_existing_file_is_overwritten_only_by_force(tmp_path):
    target = tmp_path / "mine.yaml"
    target.write_text("precious")

    with pytest.raises(FoundryError, match="exists already") as caught:
        run(new.command, "x", "-o", str(target))
    assert (target.read_text(), "--force" in caught.value.hint) == ("precious", True)

    run(new.command, "x", "-o", str(target), "--force")
    assert load_spec(target).name == "x"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/b"], "does not have the right form"),
        (["x", "--set", "training.lr=1"], "did you mean `learning_rate`"),
        (["x", "--set", "training.epochs=0"], "at least 1"),
        (["x", "--set", "model=3"], "must be a mapping"),
        (["x", "--set", "model.num_heads=5"], "does not divide"),
        (["x", "--set", "training.epochs"], "sets nothing"),
        (["x", "--from", "tinny"], "no preset or template called tinny"),
        (["x", "--from", "dpo"], "needs base_model"),
        (["x", "--from", "dpo", "--param", "base_model"], "gives no value"),
        (["x", "--from", "none.yaml"], "does not exist"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path, arguments, message):
    with pytest.raises(FoundryError, match=message):
        run(new.command, *arguments)

    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "specs").write_text("a file, not a folder")

    with pytest.raises(FoundryError, match="cannot be written"):
        run(new.command, "x")


def test_standard_output_takes_the_text_alone(tmp_path):
    shown = run(new.command, "x", "--from", "fast_dev", "-o", "-")

    (tmp_path / "x.yaml").write_text(shown.output)
    assert load_spec("x.yaml").name == "x"
    assert not (tmp_path / "specs").exists()


def test_what_this_version_cannot_do_is_a_warning(tmp_path):
    shown = run(new.command, "x", "--from", "cls_tiny", "--set", "task.task_type=classification")

    assert "warning[W0103]" in shown.stderr
    assert (tmp_path / "specs" / "x.yaml").exists()


def test_a_spec_inside_the_project_tells_editors_its_schema(checkout, monkeypatch, tmp_path):
    monkeypatch.chdir(checkout)

    shown = run(new.command, "x", "-o", "-")

    assert shown.output.splitlines()[0] == "# yaml-language-server: $schema=schemas/v1/bundle/experiment.json"


def test_the_list_has_every_preset_and_template_with_true_figures():
    lines = run(presets.command).output.splitlines()

    assert {line.split()[0] for line in lines if line} == {"preset", "template", *names(PRESETS), *names(TEMPLATES)}
    assert "44,712,448" in next(line for line in lines if line.startswith("quick_prototype"))
    assert "base_model" in next(line for line in lines if line.startswith("dpo"))


@pytest.mark.parametrize("name", ["baseline", "pretrain"])
def test_what_is_shown_is_the_file_with_facts_on_top(name, tmp_path):
    text = run(presets.command, "show", name).output

    facts, file = text.split("# yaml-language-server", 1)
    assert ("123,751,680 parameters" if name == "baseline" else "paths (array, needed)") in facts
    assert read(name).path.read_text() == f"# yaml-language-server{file}"


@pytest.mark.e2e
def test_an_error_of_the_command_has_no_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "new", "x", "--set", "a.b=1"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.startswith("error: the document x: there is 1 problem\n  - ")
    assert "Traceback" not in done.stderr


def test_a_setting_of_another_section_is_answered_with_its_whole_name():
    with pytest.raises(FoundryError) as caught:
        run(new.command, "x", "--set", "training.d_model=64", "--set", "epochs=2")

    assert "`d_model` belongs in `model`, not in `training` [E0202]" in caught.value.message
    assert "[E0202]; say `model.d_model` instead of `training.d_model`" in caught.value.message
    assert "[E0202]; say `training.epochs` instead of `epochs`" in caught.value.message
