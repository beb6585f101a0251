"""Pages of the guide show what the commands really print: each is run again, on the files that the page shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(checkout, tmp_path):
    shutil.copytree(checkout / "specs", tmp_path / "specs")
    return tmp_path


@pytest.mark.parametrize(("name_of_page", "commands"), [("checking.md", 7), ("authoring.md", 12), ("migrating.md", 6)])
def test_the_commands_of_the_page_print_what_it_shows(checkout, project, name_of_page, commands):
    page = (checkout / "docs" / name_of_page).read_text(encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = 0

    for language, name, text in FENCE.findall(page):
        if name:
            (project / name).write_text(text, encoding="utf-8")
        if language != "console":
            continue
        for shown in re.split(r"^(?=\$ )", text, flags=re.MULTILINE)[1:]:
            line, _, output = shown.removeprefix("$ ").partition("\n")
            done = subprocess.run(
                ["sh", "-c", line],
                cwd=project,
                env={**os.environ, "PATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.stdout == output, line
            ran += 1

    assert ran == commands
