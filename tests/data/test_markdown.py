"""Markdown becomes the text a reader sees."""

import time

import pytest

from pipeline.data.markdown import strip_markdown

pytestmark = pytest.mark.unit

CASES = {
    "heading": ("## ACT I", "ACT I"),
    "closed heading": ("# Title ##", "Title"),
    "heading with a sharp in it": ("# C# and F#", "C# and F#"),
    "hashtag": ("#hamlet", "#hamlet"),
    "underlined heading": ("Title\n=====\ntext", "Title\ntext"),
    "rule": ("one\n\n---\n\ntwo", "one\n\ntwo"),
    "starred rule": ("one\n\n* * *\n\ntwo", "one\n\ntwo"),
    "strong": ("**MACBETH**  \nStay.", "MACBETH\nStay."),
    "emphasis": ("_Exit_ and *Enter*", "Exit and Enter"),
    "both": ("***loud*** __strong__", "loud strong"),
    "emphasis inside strong": ("**a *b* c**", "a b c"),
    "emphasis across lines": ("*Enter KING,\nand QUEEN.*", "Enter KING,\nand QUEEN."),
    "emphasis does not cross paragraphs": ("2 *3\n\n4* 5", "2 *3\n\n4* 5"),
    "multiplication": ("2 * 3 * 4", "2 * 3 * 4"),
    "snake case": ("call load_model_file now", "call load_model_file now"),
    "blank to fill in": ("Name: ____ here", "Name: ____ here"),
    "unbalanced underscore": ("[Within]_  \nWho's there?", "[Within]\nWho's there?"),
    "escaped bracket in doubled underscore": (r"__\[Awaking]_  ", "[Awaking]"),
    "escape": (r"\*not emphasis\* and 'Ladies,'\--or", "*not emphasis* and 'Ladies,'--or"),
    "escaped backslash": (r"a \\ b", "a \\ b"),
    "hard break": ("one\\\ntwo", "one\ntwo"),
    "link": ("see [the play](http://x.org/a_(b) 'title') now", "see the play now"),
    "image": ("![a skull](skull.png)", "a skull"),
    "linked image": ("[![skull](s.png)](http://x.org)", "skull"),
    "reference link": ("see [the play][1].\n\n[1]: http://x.org/play\n", "see the play."),
    "stage direction": ("[Aside][Within] Ay.\n[Aside] No.", "[Aside][Within] Ay.\n[Aside] No."),
    "autolink": ("<https://x.org/a_b_c>", "https://x.org/a_b_c"),
    "tags": ("a <b class='x'>bold</b> word<br/>next", "a bold word\nnext"),
    "comparison": ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
    "comment": ("a<!-- not\n\nseen -->b", "ab"),
    "script": ("a<script>alert(1)</script>b", "ab"),
    "entity": ("Tom &amp; Jerry &#8212; &lt;b&gt; & c.", "Tom & Jerry — <b> & c."),
    "quote": ("> To be\n> > or not", "To be\nor not"),
    "bullet": ("* one\n+ two\n- three", "- one\n- two\n- three"),
    "ordered list": ("1. one\n2. two", "1. one\n2. two"),
    "code span": ("use `a_b *c*` and `` x`y ``", "use a_b *c* and x`y"),
    "lone backtick": ("it`s fine", "it`s fine"),
    "fence": ("```python\n# not a heading\n*x*\n```\nafter", "# not a heading\n*x*\nafter"),
    "fence without end": ("~~~\n_x_", "_x_"),
    "struck": ("~~gone~~", "gone"),
    "front matter": ("---\ntitle: Hamlet\ntags:\n  - play\n---\n# Hamlet", "Hamlet"),
    "rule at the start": ("---\nNo front matter here.\n---", "No front matter here."),
    "table": ("| a | b |\n|---|---|\n| 1 | 2 |", "| a | b |\n|---|---|\n| 1 | 2 |"),
    "blank lines": ("\n\none  \n\n\n\ntwo\n", "one\n\ntwo"),
    "verse indent": ("One line\n    of verse", "One line\n    of verse"),
    "nul": ("a\0b 0", "a\ufffdb 0"),
}


@pytest.mark.parametrize(("marked", "plain"), CASES.values(), ids=CASES.keys())
def test_marks_go_and_words_stay(marked, plain):
    assert strip_markdown(marked) == plain


@pytest.mark.parametrize(
    "plain",
    [
        plain
        for name, (_, plain) in CASES.items()
        if "\n" not in plain
        and "_" not in plain
        and "*" not in plain
        and "<" not in plain
        and "\\" not in plain
        and "`" not in plain
    ],
)
def test_text_without_marks_is_left_alone(plain):
    assert strip_markdown(plain) == plain


@pytest.mark.parametrize(
    "hostile",
    ["[" * 20_000, "*a " * 20_000, "_" * 100_000, "`" * 1_001 + " ` `` " * 10_000, "<a " * 20_000, "![](" * 10_000,
     "---\n" + "a: b: c: d: e\n" * 5_000, "> " * 20_000, "# " + " #" * 20_000, "&#" * 20_000, "\\" * 50_001],
    ids=lambda text: text[:6],
)  # fmt: skip
def test_no_input_takes_long(hostile):
    started = time.perf_counter()

    strip_markdown(hostile)

    assert time.perf_counter() - started < 2
