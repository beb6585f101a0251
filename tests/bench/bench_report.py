"""The tables of a run in Markdown, the machine it ran on, and their place in a document."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.training.hardware import usable_processors

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")  # what decides the speed of matrix products


def machine() -> dict[str, Any]:
    """What figures depend on besides the code."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = set((re.search(r"^flags\s*: (.*)$", text, re.MULTILINE) or [""])[0].split())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "cores": usable_processors(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def blocks(results: dict[str, Any]) -> dict[str, str]:
    """The Markdown of the machine and of each part that was measured."""
    written = {"machine": _machine(results)}
    for part, figures in results["parts"].items():
        written[part] = f"{_WRITERS[part](figures)}\n\n{_measured(results)}"
    return written


def insert(document: str, written: dict[str, str]) -> str:
    """Put each block between its marks, `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.

    Raises:
        ValueError: a mark is missing or stands twice.
    """
    for name, text in written.items():
        opening, closing = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
        if document.count(opening) != 1 or document.count(closing) != 1:
            raise ValueError(f"the document must hold {opening} and {closing} once each")
        before, _, rest = document.partition(opening)
        _, _, after = rest.partition(closing)
        document = f"{before}{opening}\n\n{text}\n\n{closing}{after}"
    return document


def publish(text: str, name: str, document: Path | None, *, load: float) -> None:
    """Print a part with the day, the machine and its load before; put it into a document if there is one."""
    found = machine()
    text += f"\n\nMeasured {found['date']}, {found['cores']} cores, load average {load:.2f} at the start."
    print(text)
    if document is not None:
        document.write_text(insert(document.read_text(encoding="utf-8"), {name: text}), encoding="utf-8")


def _machine(results: dict[str, Any]) -> str:
    found = results["machine"]
    amx = "with" if "amx_bf16" in found["instructions"] else "without"
    rows = [
        ("Date", found["date"]),
        ("Processor", f"{found['processor']}, {found['cores']} cores usable"),
        (
            "Instructions",
            f"torch uses {found['capability']}, {amx} AMX; {', '.join(found['instructions']) or 'none of them'}",
        ),
        *([("GPU", found["gpu"])] if found["gpu"] else []),
        ("Memory", f"{found['memory_gb']:.0f} GB"),
        ("Software", f"torch {found['torch']}, Python {found['python']}, {found['system']}"),
        ("Load average", f"{results['load_before']:.2f} before, {results['load_after']:.2f} after"),
        ("Whole run", f"{results['seconds']:.0f} s"),
    ]
    return table(("Machine", ""), rows)


def _measured(results: dict[str, Any]) -> str:
    found = results["machine"]
    load = results["load_before"]
    line = f"Measured {found['date']}, {found['cores']} cores, load average {load:.2f} at the start."
    if results["quick"]:
        return f"{line} **A quick run, to try the command: the figures mean nothing.**"
    # The run adds threads of its own; what was there before it is what disturbs.
    return f"{line} **The machine was busy with other work: take these figures as rough.**" if load > 0.5 else line


def _training(figures: dict[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    ours = figures["contenders"]["foundry"].get("tokens_per_second")
    for row in figures["contenders"].values():
        if "missing" in row:
            rows.append((row["title"], *["-"] * 7, row["missing"]))
            continue
        rows.append(
            (
                row["title"],
                row["precision"],
                "yes" if row["compiled"] else "no",
                f"{row['tokens_per_second']:,.0f}",
                f"{min(row['rounds']):,.0f} to {max(row['rounds']):,.0f}",
                f"{row['tokens_per_second'] / ours:.2f}" if ours else "-",
                f"{row['utilization']:.1%}",
                f"{row['start_seconds']:.1f}",
                f"{row['parameters']:,} parameters, peak RSS {row['peak_rss_mb']:,.0f} MB",
            )
        )
    heads = (
        "Contender",
        "Precision",
        "Compiled",
        "Tokens/s",
        "Range",
        "Against ours",
        "Of matmul peak",
        "Start, s",
        "Notes",
    )
    matmul = "; ".join(
        f"{dtype} {entry['best']:,.0f} GFLOP/s ({entry['shape']})" for dtype, entry in figures["matmul_gflops"].items()
    )
    batch, length = figures["batch"]
    counts = {len(row["rounds"]) for row in figures["contenders"].values() if row["rounds"]}
    conditions = (
        f"Batches of {batch} x {length} {figures['text']}, {figures['threads']} threads, median of "
        f"{max(counts, default=0)} rounds of {figures['seconds']:g} s. Fastest matrix products: {matmul}. Training "
        f"takes {figures['flops_per_token'] / 1e6:.1f} MFLOP a token."
    )
    return f"{table(heads, rows, right=range(3, 8))}\n\n{conditions}{_verdict(figures['contenders'], ours)}"


def _verdict(rows: dict[str, dict[str, Any]], ours: float | None) -> str:
    peers = {name: row for name, row in rows.items() if not name.startswith("foundry") and row.get("tokens_per_second")}
    if not ours or not peers:
        return ""
    sentences = []
    for compiled, kind in ((False, "not compiled"), (True, "compiled")):
        same = [row for row in peers.values() if row["compiled"] is compiled]
        if same:
            fastest = max(same, key=lambda row: row["tokens_per_second"])
            ratio = ours / fastest["tokens_per_second"]
            sentences.append(
                f"The train stage does {ratio:.2f} times the tokens of the fastest peer that is {kind} "
                f"({fastest['title']}, {fastest['precision']})."
            )
    return "\n\n" + " ".join(sentences)


def _step(figures: dict[str, Any]) -> str:
    parts = figures["parts_ms"]
    total = parts["whole"]
    rows = [(name, f"{ms:.1f}", f"{ms / total:.1%}") for name, ms in parts.items()]
    how = f"{figures['precision']}, {'compiled' if figures['compiled'] else 'not compiled'}"
    return (
        table(("Part of a step", "ms", "Share"), rows, right=(1, 2))
        + f"\n\nAs the train stage runs it ({how}), median of {figures['steps']} steps; "
        f"peak RSS {figures['peak_rss_mb']:,.0f} MB."
    )


def _tokenizer(figures: dict[str, Any]) -> str:
    rows = [
        ("Training", f"{figures['training_mb_per_second']:.2f} MB/s", ""),
        (
            "Encoding",
            f"{figures['encoding_mb_per_second']:.2f} MB/s",
            f"{figures['encoding_tokens_per_second']:,.0f} tokens/s",
        ),
    ]
    return (
        table(("Tokenizer", "Text", "Tokens"), rows, right=(1, 2))
        + f"\n\n{figures['type']}, {figures['vocab_size']:,} pieces, {figures['megabytes']:.1f} MB of text "
        f"({figures['text']}); median of {figures['repeats']}."
    )


def _latency(figures: dict[str, Any]) -> str:
    names = {
        "pytorch": "PyTorch, one pass over {} tokens",
        "onnx": "ONNX Runtime, one pass over {} tokens",
        "cached": "PyTorch, next token with a cache, after {} tokens",
    }
    rows = [
        (title.format(length), f"{times['p50_ms']:.2f}", f"{times['p95_ms']:.2f}", f"{times['runs']}")
        for name, title in names.items()
        for length, times in figures[name].items()
    ]
    return (
        table(("Inference, batch 1, float32", "p50, ms", "p95, ms", "Runs"), rows, right=(1, 2, 3))
        + f"\n\nThe model ({figures['parameters']:,} parameters) has "
        f"{'the weights of the last run' if figures['model'] == 'trained' else 'random weights'}."
    )


def _times(head: str, figures: dict[str, Any]) -> str:
    rows = [(name, f"{times['p50_ms']:.0f}", f"{times['runs']}") for name, times in figures["times"].items()]
    return table((head, "Median, ms", "Runs"), rows, right=(1, 2))


def _files(figures: dict[str, Any]) -> str:
    return (
        _times("Files", figures)
        + f"\n\nA checkpoint takes {figures['checkpoint_mb']:.1f} MB, a model folder with one set of weights "
        f"{figures['model_folder_mb']:.1f} MB."
    )


def _commands(figures: dict[str, Any]) -> str:
    return _times("Whole process", figures)


_WRITERS = {
    "training": _training,
    "step": _step,
    "tokenizer": _tokenizer,
    "latency": _latency,
    "files": _files,
    "commands": _commands,
}


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] | range = ()) -> str:
    rule = ["--:" if index in right else "---" for index in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
