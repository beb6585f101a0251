"""Sweeps whose trials are ended by the tests themselves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import DOCUMENT, document

from pipeline.sweeps.place import Place
from pipeline.sweeps.study import Sweep


@pytest.fixture
def address(request, tmp_path) -> str:
    """A storage in a file: a journal, or what the test asks for."""
    return getattr(request, "param", "journal://{}/sweeps.log").format(tmp_path)


@pytest.fixture
def opened(tmp_path, address) -> Callable[..., Sweep]:
    """Opens the sweep as a process of its own would."""

    def open_(text: str = DOCUMENT, *, at: Path | None = None, **more: Any) -> Sweep:
        return Sweep(document(text, **more.pop("changed", {})), address, Place(at or tmp_path / "here"), **more)

    return open_


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server that lives as long as the test."""
    initdb = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None) or shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    programs = Path(initdb).parent
    user = "postgres" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="foundry-pg-", dir="/tmp"))  # a short path, as sockets need it
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    create = [programs / "initdb", "-D", data, "-U", "foundry", "-A", "trust", "--no-sync"]
    subprocess.run(create, user=user, cwd="/", check=True, capture_output=True)
    options = ["-D", data, "-p", str(port), "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    server = subprocess.Popen(
        [programs / "postgres", *options], user=user, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False).returncode:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.2)
        yield f"postgresql://foundry@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown: connections are cut
        server.wait()
        shutil.rmtree(folder)
