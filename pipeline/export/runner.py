"""Continues a text with an exported model. Needs onnxruntime, sentencepiece and numpy, and nothing else: no PyTorch.

This file stands beside the model, in the folder of an export, and works wherever the folder is copied:

    python runner.py "To be, or" --max-new-tokens 100 --temperature 0.7 --seed 1

    from runner import Runner
    for piece in Runner("artifacts/export").generate("To be, or", max_new_tokens=100):
        print(piece, end="", flush=True)

What is notable about it:

* Each token costs one pass over that token alone: the keys and values of those before it stay where they are (`Cache`).
* Text becomes the ids that the model was trained on, and any ids become text piece by piece (`Text`).
* The same prompt, settings and seed give the same text.
* One thread: for a model of a few million weights, two would wait for each other longer than they work.
"""

from __future__ import annotations

import argparse
import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import sentencepiece
from numpy.typing import NDArray

GRAPH = "model.cache.onnx"
# Inputs and outputs of a graph; `PAST` and `PRESENT` stand before `0.key`, `0.value`, `1.key` and so on.
IDS, LENGTH, TOTAL, LOGITS = "ids", "seqlens_k", "total_sequence_length", "logits"
PAST, PRESENT = "past_key_values.", "present."
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # U+2581, how SentencePiece writes a space

Ids = NDArray[np.int64]  # (B, T)
Floats = NDArray[np.float32]


class Cache:
    """What a graph keeps as it reads: keys and values, with room for all tokens that a model can see, and features.

    Args:
        session: of the graph.
        batch: rows that are read side by side.
        longest: tokens that there is room for.

    Attributes:
        length: tokens held.
    """

    def __init__(self, session: onnxruntime.InferenceSession, batch: int, longest: int) -> None:
        self.length = 0
        self.binding = session.io_binding()
        self._held = []  # the binding does not keep them
        for taken in session.get_inputs():
            if taken.name.startswith(PAST):
                held = onnxruntime.OrtValue.ortvalue_from_numpy(_room(taken, batch, longest))
                self.binding.bind_ortvalue_input(taken.name, held)
                # The same memory: the graph writes new keys and values beside the old ones, new features over them.
                self.binding.bind_ortvalue_output(taken.name.replace(PAST, PRESENT), held)
                self._held.append(held)


class Graph:
    """A model as an ONNX graph that keeps the keys and values of the tokens it has read.

    Args:
        path: the graph, `model.cache.onnx` or `model.int8.onnx`.
        threads: processors to use for one pass.

    Attributes:
        max_seq_len: the longest text, in tokens.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; they are raised as well
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._logits = next(output for output in self._session.get_outputs() if output.name == LOGITS)
        self.max_seq_len = int(self._session.get_modelmeta().custom_metadata_map["max_seq_len"])

    def cache(self, batch: int = 1) -> Cache:
        """An empty cache for so many rows."""
        return Cache(self._session, batch, self.max_seq_len)

    def step(self, ids: Ids, cache: Cache) -> Floats:
        """Read more tokens; the cache then holds them, too.

        Args:
            ids: (B, T), what follows the tokens of the cache; after some, T is 1 unless B is.
            cache: of `cache`, with room for them.

        Returns:
            (B, T, V) logits of the token that follows each.
        """
        batch, length = ids.shape
        total = cache.length + length
        if total > self.max_seq_len:
            raise ValueError(f"{total} tokens are more than {self.max_seq_len}, which the model can see")
        logits = np.empty((batch, length, self._logits.shape[2]), dtype=np.float32)
        for name, value in (IDS, np.ascontiguousarray(ids)), *_lengths(batch, total).items():
            cache.binding.bind_cpu_input(name, value)
        cache.binding.bind_ortvalue_output(LOGITS, onnxruntime.OrtValue.ortvalue_from_numpy(logits))
        self._session.run_with_iobinding(cache.binding)
        cache.length = total
        return logits

    def whole(self, ids: Ids) -> dict[str, Any]:
        """The arguments of the graph, by name, to read (B, T) ids from their beginning without a cache."""
        past = [taken for taken in self._session.get_inputs() if taken.name.startswith(PAST)]
        return {IDS: ids, **_lengths(*ids.shape), **{taken.name: _room(taken, len(ids), 0) for taken in past}}


def _room(taken: Any, batch: int, past: int) -> Floats:
    """Zeros of the shape that a graph takes, for a batch and so many tokens before it."""
    free = {"batch": batch, "past": past}
    return np.zeros([free.get(size, size) for size in taken.shape], dtype=np.float32)


def _lengths(batch: int, total: int) -> dict[str, NDArray[np.int32]]:
    """How many tokens there are with those of the past, as the graph takes it: in each row less one, and at most."""
    return {LENGTH: np.full(batch, total - 1, dtype=np.int32), TOTAL: np.array(total, dtype=np.int32)}


class Text:
    """Text to token ids and back, exactly as in training.

    Args:
        folder: with `tokenizer.model` and `tokenizer.json`.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.bos, self.eos = about["bos_id"], about["eos_id"]
        self.has_pairs = about["kind"] == "pairs"  # then the prompt is a source, and what is written its target
        self._bytes = [self._content(token) for token in range(self._pieces.get_piece_size())]
        spelled = {
            self._bytes[token]: token for token in range(len(self._bytes)) if self._pieces.is_byte(token)
        }  # byte → its piece; empty without byte fallback
        self._mark = [spelled[bytes([value])] for value in _SPACE.encode()] if spelled else [self._pieces.unk_id()]
        self._space = [spelled[b" "]] if spelled else self._mark
        # Each of these is cut out of a text before SentencePiece sees the rest: it would confuse U+2581 with a space.
        control = {token for token in range(len(self._bytes)) if self._pieces.is_control(token)}
        control.add(self._pieces.unk_id())
        whole = {token: [number] for token, number in about["special_tokens"].items() if number not in control}
        self._apart = {"\n": [self._pieces.piece_to_id("\n")], **whole, _SPACE: self._mark}
        longest_first = sorted(self._apart, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, without one that begins or ends it."""
        parts = self._cut.split(text)  # those cut out stand at the odd places
        ids = []
        for symbol, span in zip([None, *parts[1::2]], self._pieces.encode(parts[0::2]), strict=True):
            ids += self._apart[symbol] if symbol else []
            ids += self._with_spaces(span)
        return ids

    def decode(self, tokens: Iterable[int]) -> Iterator[str]:
        """The text of ids as they come; bytes of a character wait until it is complete."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        for token in tokens:
            yield decoder.decode(self._bytes[token])
        yield decoder.decode(b"", final=True)

    def _content(self, token: int) -> bytes:
        """The UTF-8 bytes that a token adds to a text."""
        piece: str = self._pieces.id_to_piece(token)
        if self._pieces.is_control(token):
            return b""
        if self._pieces.is_unknown(token):
            return "\N{REPLACEMENT CHARACTER}".encode()
        return bytes([int(piece[3:5], 16)]) if self._pieces.is_byte(token) else piece.replace(_SPACE, " ").encode()

    def _with_spaces(self, ids: list[int]) -> list[int]:
        """Spell a space that no piece holds as the byte 0x20, where SentencePiece spells U+2581."""
        spaced: list[int] = []
        at = 0
        while at < len(ids):
            found = ids[at : at + len(self._mark)] == self._mark
            spaced += self._space if found else ids[at : at + 1]
            at += len(self._mark) if found else 1
        return spaced


class Runner:
    """An exported model that writes text.

    Args:
        folder: of the export, where this file stands.
        graph: the name of the graph in it.
        threads: processors to use.
    """

    def __init__(self, folder: Path | str, *, graph: str = GRAPH, threads: int = 1) -> None:
        self.text = Text(Path(folder))
        self.graph = Graph(Path(folder) / graph, threads)

    def generate(
        self, prompt: str, *, max_new_tokens: int = 100, stop: Sequence[str] = (), **sampling: Any
    ) -> Iterator[str]:
        """Continue a prompt, piece by piece.

        Args:
            prompt: any text.
            max_new_tokens: how many tokens to write at most.
            stop: the text ends before the first of these.
            sampling: `temperature`, `top_k`, `top_p` and `seed`, see `tokens`.
        """
        ids = [self.text.bos, *self.text.encode(prompt)]
        if self.text.has_pairs:
            ids.append(self.text.bos)
        return until(self.text.decode(self.tokens(ids, max_new_tokens=max_new_tokens, **sampling)), stop)

    def tokens(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """The ids that continue a prompt, up to the one that ends a document.

        Past the longest sequence, the model goes on with the second half of what it has seen.

        Args:
            prompt: one id at least.
            max_new_tokens: how many to write at most.
            temperature: 0 always takes the likeliest.
            top_k: sample among this many likeliest only.
            top_p: sample among the likeliest that together have at least this probability.
            seed: of the sampling.
        """
        longest = self.graph.max_seq_len
        chance = np.random.default_rng(seed)
        seen = list(prompt)[-longest:]
        fresh, cache = seen, self.graph.cache()
        for _ in range(max_new_tokens):
            if cache.length + len(fresh) > longest:
                seen = seen[-(longest // 2) :]
                fresh, cache = seen, self.graph.cache()
            logits = self.graph.step(np.array([fresh], dtype=np.int64), cache)
            token = choose(logits[0, -1], temperature=temperature, top_k=top_k, top_p=top_p, chance=chance)
            if token == self.text.eos:
                return
            yield token
            seen.append(token)
            fresh = [token]


def choose(
    logits: Floats, *, temperature: float, top_k: int | None, top_p: float | None, chance: np.random.Generator
) -> int:
    """Pick the next token from its (V,) logits. See `Runner.tokens` for the arguments."""
    if temperature == 0:
        return int(logits.argmax())
    scores = logits.astype(np.float64) / temperature
    if top_k is not None and top_k < scores.size:
        scores[scores < np.partition(scores, -top_k)[-top_k]] = -np.inf
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    if top_p is not None and top_p < 1:
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]  # probability of everything likelier
        probabilities[order[before >= top_p]] = 0
        probabilities /= probabilities.sum()
    return int(chance.choice(probabilities.size, p=probabilities))


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """Pass text on until one of `stops` appears, which may be spread over several pieces."""
    stops = [stop for stop in stops if stop]
    held = ""
    for piece in pieces:
        held += piece
        found = [at for at in (held.find(stop) for stop in stops) if at >= 0]
        if found:
            yield held[: min(found)]
            return
        keep = max((_overlap(held, stop) for stop in stops), default=0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could be the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Continue the prompt of the command line."""
    parser = argparse.ArgumentParser(description="Continue a text with an exported model, without PyTorch.")
    parser.add_argument("prompt")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="of the export (default: beside me)")
    parser.add_argument("--graph", default=GRAPH, help="model.int8.onnx for 8-bit weights (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=_whole, default=100, help="stop after these (default: %(default)s)")
    parser.add_argument("--temperature", type=_not_negative, default=0.7, help="0: likeliest (default: %(default)s)")
    parser.add_argument("--top-k", type=_whole, help="sample among this many likeliest tokens only")
    parser.add_argument("--top-p", type=_share, help="sample among the likeliest that have this probability")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same text (default: %(default)s)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this; may be repeated")
    parser.add_argument("--threads", type=_whole, default=1, help="processors to use (default: %(default)s)")
    asked = vars(parser.parse_args(arguments))
    folder, graph = asked.pop("folder"), asked.pop("graph")
    missing = [name for name in (graph, "tokenizer.model", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        parser.error(f"there is no {missing[0]} in {folder}")
    runner = Runner(folder, graph=graph, threads=asked.pop("threads"))
    if not runner.text.has_pairs:
        print(asked["prompt"], end="", flush=True)
    for piece in runner.generate(**asked):
        print(piece, end="", flush=True)
    print()


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < np.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and up to 1")
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
