"""`foundry generate`: text from a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.options import model_folder

if TYPE_CHECKING:
    from pipeline.data.tokenizer import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what the bytes of a character that is not complete yet decode to
_MAX_CHARACTER_BYTES = 4  # of UTF-8: more than that many trailing replacements are real ones


@click.command(short_help="Continue a text with the trained model.")
@click.argument("prompt")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="Stop after these.")
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.7,
    show_default=True,
    help="0 always takes the likeliest token; higher is more surprising.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Sample among this many likeliest tokens only.")
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Sample among the likeliest tokens that together have this probability.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed, the same text.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before this text. May be given several times.")
@model_folder
def command(
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: tuple[str, ...],
    folder: Path,
) -> None:
    """Continue PROMPT with the trained model, printing each piece as it comes."""
    from pipeline.data.tokenizer import Tokenizer
    from pipeline.models.generate import generate
    from pipeline.models.store import load_language_model

    model, description = load_language_model(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.model")
    start = [description["bos_id"], *tokenizer.encode(prompt)]
    answers = description["task_type"] == "seq2seq"  # then the prompt is a source, and what is written its target
    if answers:
        start.append(description["bos_id"])
    tokens = generate(
        model,
        start,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_ids=[description["eos_id"]],
    )
    if not answers:
        click.echo(prompt, nl=False)
    for piece in until(decode(tokenizer, tokens), stop):
        click.echo(piece, nl=False)  # click.echo flushes: text appears as it is made
    click.echo()


def decode(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Turn tokens into pieces of text as they come, holding back characters whose bytes are not all there."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        tail = len(text) - len(text.rstrip(_UNFINISHED))
        ready = text[: len(text) - tail] if tail < _MAX_CHARACTER_BYTES else text
        if len(ready) > len(shown) and ready.startswith(shown):
            yield ready[len(shown) :]
            shown = ready
    text = tokenizer.decode(ids)
    if text.startswith(shown):
        yield text[len(shown) :]


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
