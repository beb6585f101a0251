"""A hub on this machine: the few answers of the Hugging Face hub that reading one dataset takes, from a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40
REPOSITORY = "owner/tales"


class Hub(ThreadingHTTPServer):
    """Serves a folder as the dataset `owner/tales` at one commit; `refusal` is the code it gives instead of files."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.refusal, self.requests = folder, "", []
        self.sent = 0  # bytes of data files
        self.address = f"http://127.0.0.1:{self.server_port}"

    def files(self) -> dict[str, bytes]:
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.answer(asked)

    def answer(self, asked=None):
        hub = self.server
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        place = f"/api/datasets/{REPOSITORY}"
        resolve = f"/datasets/{REPOSITORY}/resolve/{COMMIT}/"
        if not path.startswith((place, f"/datasets/{REPOSITORY}/")):
            self.refuse(404, "RepoNotFound")
        elif path in (place, f"{place}/revision/{COMMIT}"):
            self.send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith(f"{place}/tree/{COMMIT}"):
            below = path.removeprefix(f"{place}/tree/{COMMIT}").strip("/")
            self.send(json.dumps(self.entries(below)).encode())
        elif path == f"{place}/paths-info/{COMMIT}":
            self.send(json.dumps([entry for entry in self.entries("") if entry["path"] in asked["paths"]]).encode())
        elif path.startswith(resolve) and hub.refusal:
            self.refuse(403, hub.refusal)
        elif path.startswith(resolve):
            self.file(path.removeprefix(resolve))
        else:
            self.refuse(404, "RevisionNotFound")

    def entries(self, below):
        files = {name: data for name, data in self.server.files().items() if name.startswith(below)}
        folders = {parent.as_posix() for name in files for parent in Path(name).parents} - {"."}
        listed = [{"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders - {below})]
        return listed + [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}  # noqa: S324 - git's
            for name, data in files.items()
        ]

    def file(self, name):
        data = self.server.files().get(name)
        if data is None:
            self.refuse(404, "EntryNotFound")
            return
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}  # noqa: S324
        asked = self.headers.get("Range")
        if asked is None:
            self.send(data, headers=headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) if last else len(data) - 1, len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self.send(data[start : end + 1], status=206, headers=headers)

    def refuse(self, status, code):
        self.send(b"{}", status=status, headers={"X-Error-Code": code, "X-Error-Message": code})

    def send(self, data, *, status=200, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.server.sent += len(data)
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
