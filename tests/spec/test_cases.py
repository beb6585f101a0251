"""Every file under tests/cases/<kind> is a test: valid ones load, invalid ones say exactly what their marks say.

In an invalid file the comment `# <- E0201` ends each line that has that problem.
"""

import re
from pathlib import Path

import pytest

from pipeline.spec import CODES, SpecError, load_spec

pytestmark = pytest.mark.unit
CASES = Path(__file__).parents[1] / "cases"
MARK = re.compile(r"# <- (E\d{4}(?:, E\d{4})*)$")


def cases(kind):
    files = sorted(path for path in CASES.glob(f"*/{kind}/**/*") if path.is_file())
    return [pytest.param(path, id=path.relative_to(CASES).as_posix()) for path in files]


@pytest.mark.parametrize("path", cases("valid"))
def test_a_valid_spec_loads(path):
    spec = load_spec(path, kind=None)

    assert spec.schema_version == 1


@pytest.mark.parametrize("path", cases("invalid"))
def test_an_invalid_spec_has_exactly_the_problems_that_its_marks_name(path):
    lines = path.read_text().splitlines()
    expected = [
        (number, code)
        for number, line in enumerate(lines, 1)
        if (mark := MARK.search(line))
        for code in mark.group(1).split(", ")
    ]
    assert expected, "an invalid case marks its lines"

    with pytest.raises(SpecError) as caught:
        load_spec(path, kind=None)

    assert [(problem.line, problem.code) for problem in caught.value.problems] == expected


def test_the_cases_cover_every_error_that_the_content_of_a_file_can_have():
    marked = set(re.findall(r"E\d{4}", "".join(path.read_text() for path in CASES.glob("*/invalid/**/*.yaml"))))

    # In test_document.py: files that cannot be read, and limits that would need a very large case. In
    # test_check_command.py: a report. In test_migrate.py: what only a migration finds. In test_project.py: what takes a
    # second file.
    elsewhere = {"E0101", "E0102", "E0103", "E0105", "E0112", "E0114", "E0308", "E0527"}
    elsewhere |= {f"E060{number}" for number in range(2, 9)}
    assert marked | elsewhere == {code for code in CODES if code.startswith("E")}
