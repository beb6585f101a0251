"""Measures what each part of the recipe is worth: held-out loss after equal time, beside nanoGPT's small setting.

python tests/bench/recipe.py --text input.txt                              every row, to the screen
python tests/bench/recipe.py --text input.txt --write docs/recipe.md       and put the table into the document
python tests/bench/recipe.py --text input.txt --seeds 1 --row AdamW        some rows, beside the recipe itself
python tests/bench/recipe.py --text input.txt --longer                     the recipes for more time
python tests/bench/recipe.py --text artifacts/tokenizer                    nanoGPT's setting and the recipe on tokens
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_report
import click
from bench_nanogpt import STEPS
from bench_process import in_child
from recipe_rows import CLOCKS, LONGER, NANOGPT, RECIPE, ROWS, SETTINGS

from pipeline import console
from pipeline.files import sha256_file
from pipeline.stages import WAITING
from pipeline.training.hardware import usable_processors

_SCORES = {"loss": "Nats", "bits_per_byte": "Bits per byte"}
Results = dict[str, list[dict[str, Any]]]  # row → the figures of each seed


def measure(
    rows: Sequence[str],
    *,
    text: Path,
    seconds: float | None,
    seeds: int,
    row_seeds: int,
    threads: int,
    clock: str,
    nanogpt_steps: int,
    store: Path,
) -> Results:
    """Train nanoGPT's setting, the recipe and some rows, one after the other, each in a process of its own.

    Args:
        rows: keys of `ROWS`.
        text: to learn from and to score, see `recipe_rows.material`.
        seconds: that each row may take; None gives what nanoGPT's setting took, the mean over its seeds.
        seeds: of nanoGPT's setting and of the recipe.
        row_seeds: of every other row.
        threads: of arithmetic.
        clock: key of `CLOCKS`.
        nanogpt_steps: of nanoGPT's setting.
        store: JSON lines of what has been measured; what stands there is not measured again.
    """
    common = {"text": str(text), "threads": threads, "clock": clock, "deterministic": True}
    results: Results = {NANOGPT: []}
    for seed in range(seeds):
        settings = {**common, "seed": seed, "nanogpt_steps": nanogpt_steps}
        results[NANOGPT].append(_run("recipe_rows:nanogpt", NANOGPT, settings, store))
    limit = seconds or statistics.mean(each["seconds"] for each in results[NANOGPT])
    for number in range(max(seeds, row_seeds)):  # seed by seed: a run that is cut short has every row
        for row in [RECIPE, *(name for name in rows if name != RECIPE)]:
            if number < (seeds if row == RECIPE else row_seeds):
                settings = {**common, "seed": number, "row": {**SETTINGS, **ROWS[row]}, "seconds": limit}
                results.setdefault(row, []).append(_run("recipe_rows:ours", row, settings, store))
    return results


def measure_longer(*, text: Path, seconds: float | None, seeds: int, threads: int, clock: str, store: Path) -> Results:
    """Train the rows of `LONGER`, each for its own time or for `seconds`. Arguments as those of `measure`."""
    common = {"text": str(text), "threads": threads, "clock": clock, "deterministic": True}
    results: Results = {}
    for seed in range(seeds):
        for row, (limit, changes) in LONGER.items():
            settings = {**common, "seed": seed, "row": {**SETTINGS, **changes}, "seconds": seconds or limit}
            results.setdefault(row, []).append(_run("recipe_rows:ours", row, settings, store))
    return results


def _run(work: str, row: str, settings: dict[str, Any], store: Path) -> dict[str, Any]:
    """The figures of one run: from the store if they are there, else measured and added to it."""
    source = Path(settings["text"])
    learned = sha256_file(source / "train.bin" if source.is_dir() else source)
    key = json.dumps({**settings, "text": learned}, sort_keys=True)
    if store.exists():
        for line in store.read_text(encoding="utf-8").splitlines():
            if (kept := json.loads(line))["key"] == key:
                return kept["figures"]
    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as compiled:  # from an empty cache: compiling is charged
        environment = {"TORCHINDUCTOR_CACHE_DIR": compiled} | ({} if row == NANOGPT else WAITING)
        figures = in_child(work, settings, environment)
    with store.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "row": row, "figures": figures}) + "\n")
    console.say(f"{row}, seed {settings['seed']}: {figures['loss']:.4f} nats after {figures['seconds']:.0f} s")
    return figures


def table(results: Results, *, threads: int, clock: str, load: float, score: str = "loss") -> str:
    """The results in Markdown, by a score: `loss` or `bits_per_byte`.

    A row is compared with the recipe over the seeds that it has itself.
    """
    first = next(iter(results.values()))[0] if RECIPE not in results else results[RECIPE][0]
    base = [each[score] for each in results.get(RECIPE, [])]  # of seeds 0, 1, 2, as those of every row
    rows = []
    for name, runs in results.items():
        found = [each[score] for each in runs]
        mean = statistics.mean(found)
        rows.append(
            (
                name,
                f"{mean:.4f}",
                f"{min(found):.4f} to {max(found):.4f}" if len(found) > 1 else "one seed",
                *([f"{mean - statistics.mean(base[: len(runs)]):+.4f}"] if base else []),
                f"{statistics.mean(each['steps'] for each in runs):,.0f}",
                f"{statistics.mean(each['tokens'] for each in runs) / 1e6:.2f}",
                f"{runs[0]['parameters'] / 1e6:.2f}",
                f"{statistics.mean(each['compile_seconds'] for each in runs):.0f}",
                f"{statistics.mean(each['seconds'] for each in runs):.0f}",
            )
        )
    compared = ["Against the recipe"] if base else []
    heads = ("Row", _SCORES[score], "Spread", *compared, "Steps", "Million tokens", "Million weights")
    heads += ("Compiling, s", "Seconds")
    cores = f"{threads} thread{'s' if threads > 1 else ''}"
    said = "of the processor" if clock == "processor" else "on the wall"
    busy = " **The machine was busy with other work: take these figures as rough.**" if load > 0.5 else ""
    return (
        f"{bench_report.table(heads, rows, right=range(1, len(heads)))}\n\nOf the held-out part, scored whole "
        f"({first['scored']:,} tokens). Seconds {said}, compiling included, on {cores} "
        f"({first['precision']}); load average {load:.2f} at the start.{busy}"
    )


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True),
    required=True,
    help="The characters of Shakespeare, as nanoGPT downloads them (input.txt), another text, or a folder of tokens.",
)
@click.option("--longer", is_flag=True, help="The recipes for more time instead of the rows.")
@click.option("--row", "rows", type=click.Choice(list(ROWS)), multiple=True, help="Measure these rows only.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="For each row, instead of nanoGPT's time.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of nanoGPT and the recipe.")
@click.option("--row-seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Of every other row.")
@click.option("--threads", type=click.IntRange(min=1), default=usable_processors(), help="Of arithmetic.")
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall", show_default=True, help="What a second is.")
@click.option(
    "--nanogpt-steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="To try the command."
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path(".work/recipe.jsonl"),
    show_default=True,
    help="Where figures are kept; a run that was cut short goes on from there.",
)
@click.option(
    "--write",
    "document",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Put the table into this document, between its marks.",
)
def main(
    text: Path,
    longer: bool,
    rows: tuple[str, ...],
    seconds: float | None,
    seeds: int,
    row_seeds: int,
    threads: int,
    clock: str,
    nanogpt_steps: int,
    store: Path,
    document: Path | None,
) -> None:
    """Run the command."""
    block = "recipe-longer" if longer else "recipe-elsewhere" if text.is_dir() else "recipe"
    if document is not None:
        try:  # before the minutes of measuring, not after them
            bench_report.insert(document.read_text(encoding="utf-8"), {block: ""})
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    store.parent.mkdir(parents=True, exist_ok=True)
    load, began = os.getloadavg()[0], time.monotonic()
    common: dict[str, Any] = {"text": text, "seconds": seconds, "seeds": seeds, "threads": threads, "clock": clock}
    if longer:
        results = measure_longer(**common, store=store)
    else:
        chosen = rows or (() if text.is_dir() else tuple(ROWS))
        results = measure(chosen, **common, row_seeds=row_seeds, nanogpt_steps=nanogpt_steps, store=store)
    score = "bits_per_byte" if text.is_dir() else "loss"
    written = table(results, threads=threads, clock=clock, load=load, score=score)
    click.echo(written)
    if document is not None:
        text_with = bench_report.insert(document.read_text(encoding="utf-8"), {block: written})
        document.write_text(text_with, encoding="utf-8")
    console.say(f"measured in {console.duration(time.monotonic() - began)}")


if __name__ == "__main__":
    main()
