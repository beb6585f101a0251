"""What a person sees while work goes on."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from pipeline import console

pytestmark = pytest.mark.unit

CODE = """
import time
from pipeline import console
with console.progress("train", 40, "steps") as shown:
    for step in range(41):
        shown.update(step, "loss 1.5")
        if step == 20:
            shown.say("halfway [not markup]")
        time.sleep(0.01)
console.say("after")
"""


def test_a_terminal_shows_a_bar_with_rate_and_time_left_and_keeps_the_lines():
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    process = subprocess.Popen([sys.executable, "-c", CODE], stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())

    assert process.wait() == 0
    assert "━" in text
    assert "40/40 steps" in text
    assert "/s, " in text
    assert "loss 1.5" in text
    assert "halfway [not markup]" in text
    assert text.rstrip().endswith("after")


def test_a_log_gets_plain_lines_seldom_and_always_the_last(capsys):
    with console.progress("train", 40, "steps") as shown:
        for step in range(41):
            shown.update(step)
        shown.say("a line")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("train: 40/40 steps, ")
    assert lines[1] == "a line"


def test_work_of_an_earlier_process_does_not_count_into_the_rate(capsys, monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    shown = console.Progress("train", 100, "steps")
    shown.start_at(80)

    shown.update(100)

    assert "2.0/s, 0.0 s left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.44, "8.4 s"), (11.6, "12 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert console.duration(seconds) == text
