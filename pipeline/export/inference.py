"""Serves the model of a bundle: continues texts, or says the classes of texts and of pictures.

    python inference.py "To be, or"            continue a text, or say its class
    python inference.py picture.png            say the class of a picture
    python inference.py --serve --port 8080    answer GET /health and POST /predict {"inputs": ["To be, or"]}
    python inference.py --ping --port 8080     ask such a server whether it is well

A bundle carries this file and the few modules that it imports. With the packages of its requirements.txt it runs
where Model Foundry is not installed.
"""

# ruff: noqa: PLC0415 - each function imports the library that its kind of model needs

from __future__ import annotations

import argparse
import base64
import binascii
import json
import signal
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FoundryError

if TYPE_CHECKING:
    from pipeline.export.runner import Graph

Run = Callable[[NDArray[Any]], NDArray[np.float32]]  # (B, T) ids or (B, C, H, W) pixels → logits

_MOST_BYTES = 20_000_000  # of one request: a photograph fits
_MOST_INPUTS = 64  # of one request
_MOST_TOKENS = 4096  # of one answer


class RequestError(FoundryError):
    """A request that cannot be answered: says what is wrong with it."""


class Settings:
    """How a text is continued.

    Args:
        max_new_tokens: tokens of the answer, at most.
        temperature: 0 takes the likeliest token each time; higher is more surprising.
        top_k: sample among so many likeliest tokens only.
        top_p: sample among the likeliest tokens that together have this probability.
        seed: the same seed, the same text.

    Raises:
        RequestError: a value is not of its type, or out of range.
    """

    def __init__(
        self,
        *,
        max_new_tokens: Any = 100,
        temperature: Any = 0.7,
        top_k: Any = None,
        top_p: Any = None,
        seed: Any = 0,
    ) -> None:
        self.max_new_tokens: int = _number("max_new_tokens", max_new_tokens, int, 1, _MOST_TOKENS)
        self.temperature: float = _number("temperature", temperature, float, 0, 100)
        self.top_k: int | None = None if top_k is None else _number("top_k", top_k, int, 1, 10**9)
        self.top_p: float | None = None if top_p is None else _number("top_p", top_p, float, 1e-9, 1)
        self.seed: int = _number("seed", seed, int, 0, 2**63)


def _number(name: str, value: Any, kind: type, least: float, most: float) -> Any:
    right = isinstance(value, kind | int) and not isinstance(value, bool)
    if not right or not least <= value <= most:  # also NaN
        raise RequestError(f"{name} must be a number from {least:g} to {most:g}, but is {value!r}")
    return kind(value)


class Model:
    """The model of a bundle, open.

    Args:
        folder: the bundle, whose files are checked against its manifest.

    Raises:
        FoundryError: a file is missing or is not the one that was written.
    """

    def __init__(self, folder: Path) -> None:
        verify(folder)
        self.about: Mapping[str, Any] = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        artifacts = folder / "artifacts"
        opened = artifacts / self.about["runs"]["file"]
        self._open = _OPEN[self.about["runs"]["format"]](opened)
        if not self.takes_pictures:
            from pipeline.data.tokenizer import Tokenizer

            self._tokenizer = Tokenizer.load(artifacts / "tokenizer.model")

    @property
    def takes_pictures(self) -> bool:
        """Whether it takes pictures; otherwise it takes texts."""
        return "image_size" in self.about

    def predict(self, given: str | bytes, settings: Settings) -> dict[str, Any]:
        """The answer to one input.

        Args:
            given: a text, or the bytes of a picture file.
            settings: for models that write text.

        Returns:
            `text` and `tokens` of the continuation; or the likeliest `class` and the `probabilities` of all classes; or
            the `labels` whose probability reaches the threshold, the likeliest first, and the `probabilities` of all.

        Raises:
            FoundryError: the input is not a text or a picture that can be read.
        """
        if "classes" in self.about:
            logits = self._open()(self._pixels(given) if isinstance(given, bytes) else self._row(given))[0]
            several = "label_threshold" in self.about
            shares = dict(zip(self.about["classes"], (sigmoid if several else softmax)(logits).tolist(), strict=True))
            ranked = sorted(shares, key=lambda name: -shares[name])
            if several:
                labels = [name for name in ranked if shares[name] >= self.about["label_threshold"]]
                return {"labels": labels, "probabilities": shares}
            return {"class": ranked[0], "probabilities": shares}
        assert isinstance(given, str)
        prompt = [self.about["bos_id"], *self._tokenizer.encode(given)]
        if self.about["task_type"] == "seq2seq":  # then the text is a source, and what is written its target
            prompt.append(self.about["bos_id"])
        ids = list(self._continued(prompt, settings))
        return {"text": self._tokenizer.decode(ids), "tokens": len(ids)}

    def _pixels(self, data: bytes) -> NDArray[np.uint8]:
        from pipeline.data.picture_files import decode_picture

        channels, height, width = self.about["image_size"]
        pixels, _ = decode_picture(data, name="the input", size=(channels, height, width), fit=self.about["fit"])
        return pixels[np.newaxis]

    def _row(self, text: str) -> NDArray[np.int64]:
        ids = [self.about["bos_id"], *self._tokenizer.encode(text), self.about["eos_id"]]
        return np.array([ids[: self.about["max_seq_len"]]], dtype=np.int64)

    def _continued(self, prompt: list[int], settings: Settings) -> Iterator[int]:
        """The tokens that follow. Past the longest sequence it goes on with the second half of what it has seen."""
        longest: int = self.about["max_seq_len"]
        chance = np.random.default_rng(settings.seed)
        seen = prompt[-longest:]
        run = self._open()
        for _ in range(settings.max_new_tokens):
            if len(seen) > longest:
                seen, run = seen[-(longest // 2) :], self._open()
            token = choose(run(np.array([seen], dtype=np.int64))[0, -1], settings, chance)
            if token == self.about["eos_id"]:
                return
            yield token
            seen.append(token)


def choose(logits: NDArray[np.float32], settings: Settings, chance: np.random.Generator) -> int:
    """The next token, from its (V,) logits."""
    if settings.temperature == 0:
        return int(logits.argmax())
    shares = softmax(logits.astype(np.float64) / settings.temperature)
    order = np.argsort(-shares, kind="stable")[: settings.top_k]
    if settings.top_p is not None:
        before = np.cumsum(shares[order]) - shares[order]
        order = order[before < settings.top_p]  # the one that reaches top_p is the last
    return int(chance.choice(order, p=shares[order] / shares[order].sum()))


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities of (V,) logits."""
    powers: NDArray[Any] = np.exp(logits - logits.max())
    shares: NDArray[Any] = powers / powers.sum()
    return shares


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """A probability of each of (V,) logits by itself."""
    shares: NDArray[Any] = np.exp(-np.logaddexp(0, -logits))
    return shares


def verify(folder: Path) -> None:
    """Check every file of a bundle against its manifest.

    Raises:
        FoundryError: one is missing, or has other bytes than were written.
    """
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    for name, recorded in files.items():
        path = folder / name
        if not path.is_file() or sha256(path.read_bytes()).hexdigest() != recorded["sha256"]:
            raise FoundryError("the file is missing, or is not the one that was written", where=str(path))


def _open_onnx(path: Path) -> Callable[[], Run]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["logits"], {taken.name: inputs})[0]
        return logits

    return lambda: run


def _open_cached(path: Path) -> Callable[[], Run]:
    from pipeline.export.runner import Graph

    graph = Graph(path)
    return lambda: Continued(graph)


class Continued:
    """Reads a text that grows: of what it has seen it keeps keys and values, and computes what is new.

    Args:
        graph: keeps keys and values.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._cache = graph, graph.cache()

    def __call__(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """(1, T) ids that begin with those of the last call → (1, T', V) logits of those that are new."""
        return self._graph.step(inputs[:, self._cache.length :], self._cache)


def _open_torchscript(path: Path) -> Callable[[], Run]:
    import torch

    module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def run(inputs: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(inputs)).numpy()
        return logits

    return lambda: run


# Format → opens its file; each call of what comes back begins another input.
_OPEN: Mapping[str, Callable[[Path], Callable[[], Run]]] = {
    "onnx_cache": _open_cached,
    "onnx": _open_onnx,
    "torchscript": _open_torchscript,
}


# Over HTTP


class Server(ThreadingHTTPServer):
    """Answers requests, several at a time.

    Args:
        model: what answers.
        address: host and port.
        workers: requests that are worked on at once; others wait.
        patience: seconds that a request waits for its turn, and its connection for its bytes.
    """

    daemon_threads = True

    def __init__(self, model: Model, address: tuple[str, int], *, workers: int, patience: float) -> None:
        super().__init__(address, _Handler)
        self.model, self.patience = model, patience
        self.turns = threading.BoundedSemaphore(workers)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.patience)

    def do_GET(self) -> None:
        if self.path == "/health":
            about = self.server.model.about
            self._answer(200, {"status": "healthy", "model": about["model_name"], "task_type": about["task_type"]})
        else:
            self._answer(404, {"error": "there are GET /health and POST /predict"})

    def do_POST(self) -> None:
        if self.path != "/predict":
            self._answer(404, {"error": "there are GET /health and POST /predict"})
            return
        if not self.server.turns.acquire(timeout=self.server.patience):
            self._answer(503, {"error": "too many requests are waiting"})
            return
        try:
            self._answer(200, {"predictions": self._predictions()})
        except FoundryError as error:
            self._answer(400, {"error": str(error)})
        finally:
            self.server.turns.release()

    def _predictions(self) -> list[dict[str, Any]]:
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > _MOST_BYTES:
            raise RequestError(f"Content-Length must be a number of bytes up to {_MOST_BYTES}")
        try:
            request = json.loads(self.rfile.read(int(size)))
        except ValueError as error:
            raise RequestError(f"the request is not JSON: {error}") from error
        inputs, settings = parse_request(request)
        model = self.server.model
        return [model.predict(picture_bytes(one) if model.takes_pictures else one, settings) for one in inputs]

    def _answer(self, code: int, content: Mapping[str, Any]) -> None:
        data = json.dumps(content, ensure_ascii=False).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def parse_request(request: Any) -> tuple[list[str], Settings]:
    """Inputs and settings of a request.

    Raises:
        RequestError: it is not `{"inputs": [text, …], "parameters": {…}}`.
    """
    if not isinstance(request, dict) or request.keys() - {"inputs", "parameters"}:
        raise RequestError('a request is {"inputs": [...], "parameters": {...}}')
    inputs, parameters = request.get("inputs"), request.get("parameters", {})
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= _MOST_INPUTS:
        raise RequestError(f"inputs must be a list of 1 to {_MOST_INPUTS} texts")
    if not all(isinstance(one, str) for one in inputs):
        raise RequestError("each input must be a text; a picture is its file in Base64")
    known = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
    if not isinstance(parameters, dict) or parameters.keys() - set(known):
        raise RequestError(f"parameters are {', '.join(known)}")
    return inputs, Settings(**parameters)


def picture_bytes(text: str) -> bytes:
    """A picture file from its Base64.

    Raises:
        RequestError: it is something else.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise RequestError(f"a picture must be its file in Base64: {error}") from error


def ping(port: int) -> None:
    """Ask the server on this machine whether it is well; ends with 1 when it is not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            sys.stdout.write(answer.read().decode() + "\n")
    except OSError as error:
        sys.exit(f"error: no answer on port {port}: {error}")


def serve(folder: Path, host: str, port: int) -> None:
    """Answer requests until SIGTERM or Ctrl-C."""
    settings = json.loads((folder / "configs" / "torchserve_config.json").read_text(encoding="utf-8"))
    signal.signal(signal.SIGTERM, _stop)  # the first process of a container is deaf to what it does not handle
    server = Server(
        Model(folder), (host, port), workers=settings["maxWorkers"], patience=float(settings["responseTimeout"])
    )
    sys.stderr.write(f"serving on http://{host}:{server.server_port}\n")
    with suppress(KeyboardInterrupt):
        server.serve_forever()


def _stop(_signal: int, _frame: Any) -> NoReturn:
    sys.exit(0)


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description="Run the model of this folder.")
    parser.add_argument("input", nargs="?", help="a text, or the name of a picture file")
    parser.add_argument("--serve", action="store_true", help="answer requests over HTTP")
    parser.add_argument("--ping", action="store_true", help="ask the server on --port whether it is well")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="port to serve on (default: 8080)")
    parser.add_argument("--max-new-tokens", type=int, default=100, help="tokens to write, at most (default: 100)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the likeliest token (default: 0.7)")
    parser.add_argument("--top-k", type=int, help="sample among so many likeliest tokens only")
    parser.add_argument("--top-p", type=float, help="sample among the likeliest tokens with this probability together")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same text (default: 0)")
    asked = parser.parse_args()
    folder = Path(__file__).resolve().parent
    if asked.ping:
        ping(asked.port)
    elif asked.serve:
        serve(folder, asked.host, asked.port)
    elif asked.input is None:
        parser.error("give a text or the name of a picture file, or --serve")
    else:
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
        settings = Settings(**{name: getattr(asked, name) for name in names})
        model = Model(folder)
        given = Path(asked.input).read_bytes() if model.takes_pictures else asked.input
        print(json.dumps(model.predict(given, settings), ensure_ascii=False, indent=2))


if __name__ == "__main__":
    try:
        main()
    except (FoundryError, OSError) as error:
        sys.exit(f"error: {error}")
