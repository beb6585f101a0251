"""libyaml and PyYAML's own parser give the same documents and the same problems, place by place."""

import random
from pathlib import Path

import pytest
import yaml

from pipeline.paths import SPECS
from pipeline.spec import SpecError
from pipeline.spec.document import parse_document

pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not yaml.__with_libyaml__, reason="this PyYAML was built without libyaml"),
]
CASES = Path(__file__).parents[1] / "cases"
FILES = sorted(path for folder in (CASES, SPECS) for path in folder.rglob("*") if path.is_file())
ODD = [
    "a: é\r\nb: 'naïve 😀'\r\nc: [ü, ö]\r\nd: |\r\n  text ä\r\n  zwei\r\ne: >-\r\n  x\r\n\r\n  y\r\nf: 1\r\n",
    "a: &x {b: 1, c: [1, 2]}\n? b\n: c\nd: *x\n'f g': \"h \\u00e9 \\\n  i\"\n",
    "\ufeffa: 1\nb: 2\n",
    "a: 1\n\tb: 2\n",
    "a:\t1\nb:\t[x,\ty]\t# comment\n",
    "a: 1\rb: 2\rc: {d: 3}\r",
    "a: x\u2028b: 1\nc: 2\x85d: 3\n",
    "a: [x?, !y, 'z']\nb: !!str 3\nc: |# no\n",
    "a: [b:, c]\nd: {e:, f}\n",
    "a: {b: ,2}\nc: [d:  ]\ne: {f:\n  }\n",
]
SIGNS = [*"{}[]:,&*!|>'\"%@`\t\n\r#-? ~<=.\\ab1", "é", "😀", "\u00a0", "\ufeff", "\x85", "\u2028", "\x07"]


def read(text):
    """Everything that a reader of the text gets to know, values or problems."""
    try:
        document = parse_document(text.encode(), "x.yaml")
    except SpecError as error:
        return error.problems
    return document.values, document.keys, document.places, document.texts, document.problems


def same(texts, monkeypatch):
    fast = [read(text) for text in texts]
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    for text, found in zip(texts, fast, strict=True):
        assert repr(found) == repr(read(text)), text  # by repr, because 1 == 1.0 == True


def test_on_every_case_and_every_shipped_spec(monkeypatch):
    texts = [path.read_bytes().decode("utf-8-sig") for path in FILES]

    assert len(texts) > 30
    same([*texts, *ODD, *(text.replace("\n", "\r\n") for text in texts)], monkeypatch)


@pytest.mark.parametrize("seed", range(4))
def test_on_mutants(monkeypatch, seed):
    random_ = random.Random(seed)
    whole = [*ODD, *(path.read_bytes().decode("utf-8-sig") for path in FILES)]
    mutants = []
    for _ in range(400):
        text = random_.choice(whole)
        start = text.rfind("\n", 0, random_.randrange(len(text))) + 1
        text = text[start : start + random_.randrange(20, 300)]
        for _ in range(random_.choice((1, 1, 2, 3))):
            at = random_.randrange(len(text) + 1)
            text = text[:at] + random_.choice(SIGNS) + text[at + random_.randrange(2) :]
        mutants.append(text)

    same(mutants, monkeypatch)
