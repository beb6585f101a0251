"""What no spec may be is refused in under a second, whatever it costs others to read it."""

import time

import pytest

from pipeline.spec import SpecError, parse_spec
from pipeline.spec.document import read_document

pytestmark = pytest.mark.unit
HEAD = "schema_version: 1\nname: x\ndataset:\n  source: {kind: files, paths: [corpus]}\n"
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]\n" for above, name in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "a boolean for a number": ("training: {epochs: true}", "E0301"),
    "a boolean for a list or number": ("hardware: {devices: true}", "E0301"),
    "NaN": ("training: {learning_rate: .nan}", "E0113"),
    "infinity": ("training: {max_grad_norm: .inf}", "E0113"),
    "a number beyond all floats": ("training: {learning_rate: 1e999}", "E0113"),
    "a number of a million digits": (f"training: {{epochs: {'9' * 240_000}}}", "E0113"),
    "empty text": ("dataset_name: ''", "E0202"),
    "an empty text in a list": ("validation: {prompts: ['']}", "E0306"),
    "duplicate keys": ("training: {epochs: 1, epochs: 2}", "E0108"),
    "a tab as indentation": ("training:\n\tepochs: 1", "E0104"),
    "a billion laughs": (LAUGHS, "E0112"),
    "deep brackets": ("notes: " + "[" * 100_000, "E0112"),
    "deep dashes": ("notes:\n" + " -" * 100_000, "E0112"),
    "a long list": ("validation: {prompts: [" + "x, " * 80_000 + "]}", "E0112"),
    "many unknown keys": ("training:\n" + "".join(f"  learning_rate{number}: 1\n" for number in range(2_000)), "E0201"),
    "a key as long as the file": (f"{'k' * 240_000}: 1", "E0104"),
    "one endless line": (f"notes: {'x' * 240_000} : 1", "E0104"),
    "open quotes": ('notes: "' + "x\n" * 120_000, "E0104"),
    "ten megabytes": ("notes: " + "x" * 10_000_000, "E0102"),
    "ten megabytes of structure": ("- {a: [" * 1_500_000, "E0102"),
}


@pytest.mark.parametrize(("text", "code"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_in_under_a_second(text, code):
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse_spec((HEAD + text).encode(), "x.yaml")
    seconds = time.process_time() - started

    assert code in {problem.code for problem in caught.value.problems}
    assert seconds < 1


def test_a_file_of_ten_megabytes_is_not_even_read_whole(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: 1\n" * 2_000_000)

    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        read_document(path)

    assert caught.value.problems[0].code == "E0102"
    assert time.process_time() - started < 0.1
