"""Reading YAML 1.2: what scalars mean, where values stand, and what is refused before anything is built."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.spec import SpecError
from pipeline.spec.document import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, MAX_VALUES, parse_document, read_document, scalar
from pipeline.spec.schema import kinds, schema_of

pytestmark = pytest.mark.unit


def values(text, file="x.yaml"):
    return parse_document(text.encode(), file).values


def refusal(raw, file="x.yaml"):
    with pytest.raises(SpecError) as caught:
        parse_document(raw, file)
    return caught.value.problems[-1]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("5e-5", 5e-5), ("1e-3", 1e-3), ("1E+3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-0.0", 0.0), ("+1.5", 1.5),
        ("010", 10), ("-7", -7), ("+7", 7), ("0o17", 15), ("0x1F", 31),
        ("on", "on"), ("yes", "yes"), ("No", "No"), ("y", "y"), ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"),
        ("2001-01-01", "2001-01-01"), ("3.0.0", "3.0.0"),
        ("1e", "1e"), (".", "."), ("-", "-"), ("=", "="), ("<<", "<<"),
        ("true", True), ("TRUE", True), ("False", False), ("tRUE", "tRUE"),
        ("", None), ("~", None), ("null", None), ("Null", None), ("nULL", "nULL"),
    ],
)  # fmt: skip
def test_a_plain_scalar_means_what_the_yaml_1_2_core_schema_says(text, meaning):
    found = scalar(text)

    assert found == meaning
    assert type(found) is type(meaning)


def test_infinities_and_nan_are_recognised_as_numbers():
    assert scalar(".inf") == math.inf
    assert scalar("-.INF") == -math.inf
    assert math.isnan(scalar(".nan"))
    assert scalar("9" * 5000) == math.inf


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), PLAIN, max_size=4))
def test_json_reads_as_what_json_says(tree):
    compact, indented = json.dumps(tree), json.dumps(tree, indent="\t")

    assert values(compact, "x.json") == tree
    assert values(indented, "x.json") == tree


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text("abc: -[]{}&*!|>'\"#%@`\t\n\\?,~<\ud7ff\u2028", max_size=60).map(str.encode))
def test_no_bytes_whatever_end_in_anything_but_values_or_a_spec_error(raw):
    try:
        found = parse_document(raw, "x.yaml").values
    except SpecError as error:
        found = {problem.code: str(problem) for problem in error.problems}

    assert isinstance(found, dict)


def test_every_key_and_value_knows_its_line_and_column():
    document = parse_document(b"# comment\na:\n  b: [1, 'two']\n", "x.yaml")

    place = document.places[("a", "b", 1)]
    assert (place.line, place.column, place.length) == (3, 10, 5)
    key = document.keys[("a", "b")]
    assert (key.line, key.column, key.length) == (3, 3, 1)


def test_line_numbers_count_every_line_end_that_yaml_counts():
    document = parse_document("a: 1\r\nb: 2\rc: 3\n# \u2028d: 4".encode(), "x.yaml")

    assert document.keys[("d",)].line == 5
    assert document.lines[4] == "d: 4"


def test_a_byte_order_mark_is_not_text():
    assert parse_document(b"\xef\xbb\xbfa: 1", "x.yaml").values == {"a": 1}


def test_an_alias_repeats_values_and_points_to_where_they_stand():
    document = parse_document(b"a: &list [1, 2]\nb: *list\n", "x.yaml")

    assert document.values == {"a": [1, 2], "b": [1, 2]}
    assert document.places[("b", 1)].line == 1


def test_values_of_aliases_are_copies():
    document = parse_document(b"a: &list [1]\nb: *list\n", "x.yaml")

    assert document.values["a"] is not document.values["b"]


def test_a_file_that_does_not_exist_is_answered_with_a_name_that_does(tmp_path):
    (tmp_path / "experiment.yaml").write_text("a: 1")

    with pytest.raises(SpecError) as caught:
        read_document(tmp_path / "experimnet.yaml")

    [problem] = caught.value.problems
    assert problem.code == "E0101"
    assert problem.hint == f"did you mean {tmp_path / 'experiment.yaml'}?"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SpecError) as caught:
        read_document(tmp_path / "nowhere" / "x.yaml")

    assert "there is no folder" in caught.value.problems[0].hint


def test_a_folder_instead_of_a_file_is_refused(tmp_path):
    with pytest.raises(SpecError, match="folder"):
        read_document(tmp_path)


def test_a_file_is_too_large_before_it_is_parsed(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"[" * (MAX_BYTES + 1))

    with pytest.raises(SpecError) as caught:
        read_document(path)

    assert caught.value.problems[0].code == "E0102"


@pytest.mark.parametrize("raw", ["é".encode("latin-1"), "a: 1".encode("utf-16"), b"a: \xed\xa0\x80"])
def test_text_that_is_not_utf_8_is_refused(raw):
    assert refusal(raw).code == "E0103"


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"# only a comment\n", b"---\n...\n"])
def test_an_empty_document_is_refused(raw):
    assert refusal(raw).code == "E0105"


@pytest.mark.parametrize("raw", [b'a: "\\UFFFFFFFF"', b'a: "\\U00110000"', b"%YAML 1." + b"1" * 5000 + b"\n---\na: 1"])
def test_a_number_out_of_range_inside_the_syntax_is_a_syntax_error(raw):
    assert refusal(raw).code == "E0104"


def test_an_alias_can_be_a_key_even_one_that_looks_like_a_merge():
    document = parse_document(b"a: &x '<<'\n*x : 1\n", "x.yaml")

    assert document.values == {"a": "<<", "<<": 1}


def test_an_alias_of_nothing_and_one_of_itself_are_told_apart():
    assert "repeats nothing" in refusal(b"a: *x").message
    assert "inside the value it repeats" in refusal(b"a: &x [*x]").message


def test_a_control_character_is_named_with_its_place():
    problem = refusal(b"a: 1\nb: x\x07y\n")

    assert (problem.code, problem.line, problem.column) == ("E0104", 2, 5)
    assert "U+0007" in problem.message


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        (
            "m:\n  d_model:128\n  layers: 4\n",
            (2, 10),
            "a `:` without a space after it ends no key",
            "put a space there",
        ),
        ("m:\n  url: http://x\n   b: 4\n", (3, 5), "a `:` where no key can stand", None),
        ('p: "C:\\Users"\n', (1, 9), "no such escape in double quotes", None),
    ],
)
def test_common_slips_of_yaml_are_said_where_they_are(text, place, message, hint):
    problem = refusal(text.encode())

    assert ((problem.line, problem.column), problem.message) == (place, message)
    assert hint is None or problem.hint == hint


def test_what_is_wrong_with_json_is_said_in_its_words():
    comment = refusal(b'{\n  // mine\n  "a": 1\n}', "x.json")
    comma = refusal(b'{\n  "a": 1\n  "b": 2\n}', "x.json")

    assert (comment.line, comment.column) == (2, 3)
    assert comment.hint.startswith("JSON has no comments")
    for text in (
        b'{\n  "a": 1, // one\n}',
        b'{\n  "a": 1,\n  /* two */ "b": 2\n,}',
        b'{\n  "a": {"b": 1, // x\n  "c": 2,}\n}',
    ):
        behind_a_comma = refusal(text, "x.json")
        assert behind_a_comma.code == "E0104"
        assert behind_a_comma.hint.startswith("JSON has no comments")
    assert (comma.line, comma.message, comma.hint) == (3, "not JSON: expecting ',' delimiter", "")
    assert refusal(b'{"a": ' * 2000 + b"1" + b"}" * 2000, "x.json").code == "E0112"


@pytest.mark.parametrize(
    "raw",
    [
        b"a: " + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"- " * (MAX_DEPTH + 2),
        b"a: [" + b"x, " * MAX_VALUES + b"]",
        b"a: &a 1\nb: [" + b"*a, " * (MAX_ALIASES + 1) + b"]",
        b"a: &a [" + b"x, " * (MAX_VALUES // 3) + b"]\nb: [*a, *a, *a]",
    ],
    ids=["deep", "deep dashes", "many values", "many aliases", "aliases of much"],
)
def test_what_no_spec_needs_is_refused(raw):
    assert refusal(raw).code == "E0112"


def test_a_billion_laughs_are_refused_at_once():
    levels = "".join(
        f"{name}: &{name} [*{inner}, *{inner}, *{inner}]\n" for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
    )

    assert refusal(b"a: &a [x, x, x]\n" + levels.encode()).code == "E0112"


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_a_character():
    document = parse_document(rb'{"a": "\ud83d\ude00", "b": "\ud83d"}', "x.json")

    assert document.values["a"] == "😀"
    assert [problem.code for problem in document.problems] == ["E0114"]


def test_what_a_file_says_cannot_steer_the_terminal():
    document = parse_document(b'"\\e[31mred": 1\n"\\e[31mred": 2\n', "x.yaml")

    [problem] = document.problems
    assert "\x1b" not in str(problem)
    assert "\\x1b[31mred" in problem.message


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"kind: sweep\nvalues: {}", "sweep"),
        (b"schema_version: 1\nname: x\ndataset: {}\ntraining: {}", "experiment"),
        (b"schema_version: 1\nname: x", "experiment"),
        (b"schema_version: 1\nkidn: preset\nname: x\ndescription: y\nvalues: {}", "preset"),
        (b"schema_version: 1\nname: x\nspace: {}\nmethod: grid", "sweep"),
    ],
)
def test_a_document_that_does_not_say_its_kind_is_of_the_kind_that_knows_most_of_its_keys(raw, kind):
    assert parse_document(raw, "x.yaml").kind == kind


def test_every_kind_but_an_experiment_must_be_said():
    assert [kind for kind in kinds() if "kind" not in schema_of(kind)["required"]] == ["experiment"]


def test_a_preset_is_not_taken_for_a_file():
    with pytest.raises(SpecError) as caught:
        read_document("tiny")

    assert caught.value.problems[0].hint == "tiny is a preset; to have it as a file: foundry new NAME --from tiny"
