"""An editor with the bundled schemas sees what a schema can say: unknown keys, types and ranges."""

from __future__ import annotations

import json
import zlib

import pytest
from editor import COMPARISON, GROUPS, REQUIRED, by_group, chosen, compare, failures
from language_server import command, language_server
from mutants import shipped, sources
from page import PAGE

from pipeline.paths import SCHEMAS, SPECS
from pipeline.spec import SpecError, parse_spec
from pipeline.spec.bundle import bundle_path

ONE_IN = 100  # mutants of the quicker comparison

needs_server = pytest.mark.skipif(
    command() is None, reason="needs Node, and: npm install --prefix .work/editor yaml-language-server@1.25"
)


@pytest.fixture(scope="module")
def server():
    with language_server(command(), SCHEMAS.parent) as running:
        yield running


@pytest.mark.unit
def test_the_committed_comparison_overlooks_nothing_that_a_schema_says():
    committed = json.loads(COMPARISON.read_text(encoding="utf-8"))

    assert failures(committed) == []
    assert all(committed["groups"][group]["mutants"] > 100 for group in REQUIRED)


@pytest.mark.unit
def test_the_table_of_the_page_is_that_of_the_committed_comparison():
    committed = json.loads(COMPARISON.read_text(encoding="utf-8"))

    assert by_group(committed) in PAGE.read_text(encoding="utf-8"), "run: python tests/mutations/editor.py --write"


@pytest.mark.unit
@pytest.mark.parametrize("group", [*REQUIRED, "nothing: still valid"])
def test_one_mutant_on_which_the_editor_disagrees_is_a_failure(group):
    overlooked = {name: [] for name in (*GROUPS, "nothing: still valid")}

    assert failures({"overlooked": {**overlooked, group: ["a mutant"]}}) == ["a mutant"]


@pytest.mark.unit
def test_every_shipped_spec_names_its_bundled_schema():
    for source in sources():
        path, first = SPECS / source.file, source.text.splitlines()[0]
        named = first.removeprefix("# yaml-language-server: $schema=")

        assert (path.parent / named).resolve() == SCHEMAS / "v1" / "bundle" / f"{source.document.kind}.json"


@pytest.mark.slow
@needs_server
def test_the_editor_has_nothing_against_the_shipped_specs(server):
    texts = [(path, path.read_text(encoding="utf-8")) for path in shipped()]

    assert list(server.diagnostics(texts)) == [[] for _ in texts]


@pytest.mark.slow
@needs_server
def test_the_editor_underlines_every_unknown_key_type_and_range_that_the_checker_finds(server):
    found = compare(server, chosen(ONE_IN))

    assert failures(found) == []
    assert all(found["groups"][group]["mutants"] for group in REQUIRED)


@pytest.mark.slow
@needs_server
def test_without_its_first_line_a_spec_has_no_schema_in_the_editor(server):
    """So what the comparison counts comes from the bundled schema."""
    path = SPECS / "experiment.yaml"
    wrong = path.read_text(encoding="utf-8").replace("learning_rate:", "learning_rat:")

    [[found], none] = server.diagnostics(
        [(path.with_name("wrong.yaml"), wrong), (path.with_name("bare.yaml"), wrong.partition("\n")[2])]
    )

    assert found["message"] == "Property learning_rat is not allowed."
    assert none == []


@pytest.mark.slow
@needs_server
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("model: {num_heads: 5}", "E0401"),
        ("training: {max_grad_norm: .inf}", "E0113"),
        ("reproducibility: {random_seed: 9223372036854775808}", "E0113"),
        ("notes: !!str 3", "E0110"),
        ("logging: &a {log_every_n_steps: 5}\ncheckpointing: {<<: {keep_last_n: 2}}", "E0111"),
        ("---\n{}", "E0106"),
    ],
)
def test_the_page_is_right_about_what_the_editor_overlooks(server, text, code):
    modeline = f"# yaml-language-server: $schema={bundle_path().as_uri()}\n"
    whole = f"{modeline}schema_version: 1\nname: x\ndataset: {{source: {{kind: files, paths: [a]}}}}\n{text}\n"
    with pytest.raises(SpecError) as caught:
        parse_spec(whole.encode(), "x.yaml")
    shown = next(problem for problem in caught.value.problems if problem.code == code)

    [found] = server.diagnostics([(SPECS / f"overlooked-{zlib.crc32(text.encode())}.yaml", whole)])

    assert shown.line not in {diagnostic["range"]["start"]["line"] + 1 for diagnostic in found}
