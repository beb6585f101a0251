"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from pipeline import cli
from pipeline.errors import ExitCode

pytestmark = pytest.mark.unit


def test_every_exit_code_stands_in_the_document_and_no_other(checkout):
    text = (checkout / "docs" / "exit-codes.md").read_text(encoding="utf-8")

    rows = re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)

    assert {(int(code), name) for code, name in rows} == {(code.value, code.name.lower()) for code in ExitCode}


def test_every_command_has_an_entry_in_the_changelog(checkout):
    text = (checkout / "CHANGELOG.md").read_text(encoding="utf-8")
    shown_by_make = {"run"}

    missing = [name for name in cli.COMMANDS if f"foundry {name}`" not in text and name not in shown_by_make]

    assert missing == []


def test_every_target_of_the_makefile_is_in_its_help(checkout):
    text = (checkout / "Makefile").read_text(encoding="utf-8")

    declared = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))

    assert declared == explained


def test_no_document_names_a_command_that_does_not_exist(checkout):
    documents = [*(checkout / "docs").glob("*.md"), checkout / "README.md", checkout / "CHANGELOG.md"]
    targets = set(re.findall(r"^([a-z-]+):.*## ", (checkout / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))

    for document in documents:
        text = document.read_text(encoding="utf-8")
        for command in re.findall(r"`foundry ([a-z][a-z-]*)", text):
            assert command in cli.COMMANDS, document
        for target in re.findall(r"`make ([a-z-]+)", text):
            assert target in targets, document


def test_the_licence_is_the_one_that_the_package_names(checkout):
    text = (checkout / "LICENSE").read_text(encoding="utf-8")

    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert 'license = "Apache-2.0"' in (checkout / "pyproject.toml").read_text(encoding="utf-8")


def test_the_figures_of_the_readme_are_those_of_the_committed_run(checkout):
    text = (checkout / "README.md").read_text(encoding="utf-8")
    committed = ["git", "show", "HEAD:reports/validation.json"]  # not the last run in this folder
    shown_by_git = subprocess.run(committed, cwd=checkout, capture_output=True, text=True, check=False)
    if shown_by_git.returncode != 0:
        pytest.skip("not a git checkout with a committed run")
    report = json.loads(shown_by_git.stdout)

    figures = [report["metrics"]["bits_per_byte"], report["baselines"]["trigram"], report["baselines"]["unigram"]]
    shown = [float(figure) for figure in re.findall(r"^\| .* \| (\d\.\d{3}) \|$", text, re.MULTILINE)]
    assert shown == [round(figure, 3) for figure in figures]
    assert f"{report['model']['parameters'] / 1e6:.2f} million parameters" in text
