"""A client for yaml-language-server: what an editor underlines in a text. Speaks LSP over the server's pipes.

The server is a Node program. Where it is not installed, `command` says None:

    npm install --prefix .work/editor yaml-language-server@1.25
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.paths import SCHEMAS

HOME = SCHEMAS.parent / ".work" / "editor"  # neither in git nor in DVC
_PACKAGE = HOME / "node_modules" / "yaml-language-server"
_AT_ONCE = 64  # documents that are open together; the server waits a moment after each change, so many share the wait
# No schema but that of the modeline: the server's own catalogue is on the network.
_SETTINGS: Mapping[str, Any] = {
    "yaml": {"validate": True, "yamlVersion": "1.2", "schemaStore": {"enable": False}, "schemas": {}},
    "http": {"proxy": "http://127.0.0.1:9", "proxyStrictSSL": True},  # a port where nobody answers
}


def command() -> list[str] | None:
    """How to start the server, or None when Node or the package is not there."""
    node, program = shutil.which("node"), _PACKAGE / "bin" / "yaml-language-server"
    return [node, str(program), "--stdio"] if node and program.is_file() else None


def version() -> str:
    """The version of the package that is installed."""
    return str(json.loads((_PACKAGE / "package.json").read_text(encoding="utf-8"))["version"])


class LanguageServer:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._requests = 0

    def diagnostics(self, texts: Iterable[tuple[Path, str]]) -> Iterator[list[dict[str, Any]]]:
        """What the server finds in each text, in their order.

        Args:
            texts: the path that each text is thought to have, which need not exist and decides where a modeline leads;
                and the text. Paths must differ.
        """
        batch = []
        for item in texts:
            batch.append(item)
            if len(batch) == _AT_ONCE:
                yield from self._batch(batch)
                batch = []
        yield from self._batch(batch)

    def start(self, folder: Path) -> None:
        """Shake hands; `folder` is the project that is open in the editor."""
        capabilities = {"workspace": {"configuration": True}, "textDocument": {"publishDiagnostics": {}}}
        self._ask("initialize", {"processId": None, "rootUri": folder.as_uri(), "capabilities": capabilities})
        self._tell("initialized", {})
        self._tell("workspace/didChangeConfiguration", {"settings": _SETTINGS})

    def stop(self) -> None:
        """Ask it to end."""
        self._ask("shutdown", None)
        self._tell("exit", None)

    def _batch(self, texts: list[tuple[Path, str]]) -> Iterator[list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        uris = [path.as_uri() for path, _ in texts]
        for uri, (_, text) in zip(uris, texts, strict=True):
            document = {"uri": uri, "languageId": "yaml", "version": 1, "text": text}
            self._tell("textDocument/didOpen", {"textDocument": document})
        while not found.keys() >= set(uris):
            message = self._next()
            if message.get("method") == "textDocument/publishDiagnostics":
                found[message["params"]["uri"]] = message["params"]["diagnostics"]
        for uri in uris:
            self._tell("textDocument/didClose", {"textDocument": {"uri": uri}})
        yield from (found[uri] for uri in uris)

    def _ask(self, method: str, parameters: Any) -> None:
        self._requests += 1
        self._send({"id": self._requests, "method": method, "params": parameters})
        while self._next().get("id") != self._requests:
            pass

    def _tell(self, method: str, parameters: Any) -> None:
        self._send({"method": method, "params": parameters})

    def _next(self) -> dict[str, Any]:
        """The next message that is not a question of the server; those are answered on the way."""
        while "method" in (message := self._receive()) and "id" in message:
            asked = message["params"].get("items", ()) if message["method"] == "workspace/configuration" else None
            answer = None if asked is None else [_SETTINGS.get(item.get("section")) for item in asked]
            self._send({"id": message["id"], "result": answer})
        return message

    def _send(self, message: Mapping[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        size = 0
        while (line := self._process.stdout.readline()).strip():
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        if not size:
            raise EOFError("yaml-language-server ended")
        message: dict[str, Any] = json.loads(self._process.stdout.read(size))
        return message


@contextmanager
def language_server(start: list[str], folder: Path) -> Iterator[LanguageServer]:
    """A server for a project, started with a command and ended with the block."""
    with subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder) as process:
        server = LanguageServer(process)
        try:
            server.start(folder)
            yield server
            server.stop()
        finally:
            process.kill()
