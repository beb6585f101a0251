"""Flip one byte in each stage's output and show that the next stage refuses it, by name.

    python tests/reliability/flips.py [--project DIR]

Works on a project whose pipeline has run, and leaves it as it was: each file is put back. Prints the rows of a Markdown
table; exits 1 if a damaged file was accepted, or refused without its name or the command that rebuilds it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

CASES = (  # damaged file, stage that reads it, that stage's exit code, stage that makes it
    ("artifacts/corpus/train.jsonl", "tokenizer", 3, "corpus"),
    ("artifacts/tokenizer/train.bin", "train", 4, "tokenizer"),
    ("artifacts/tokenizer/tokenizer.model", "validate", 5, "tokenizer"),
    ("artifacts/model/model.safetensors", "validate", 5, "train"),
    ("artifacts/model/model.safetensors", "export", 6, "train"),
)


def refuse(project: Path, name: str, stage: str) -> tuple[int, str]:
    """Run a stage on a damaged file: its exit code and what it says."""
    path = project / name
    whole, mode = path.read_bytes(), path.stat().st_mode
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    path.unlink()  # it may be a link into the cache
    try:
        path.write_bytes(damaged)
        done = subprocess.run(
            [sys.executable, "-m", f"pipeline.stages.{stage}"], cwd=project, capture_output=True, text=True, check=False
        )
    finally:
        path.unlink()
        path.write_bytes(whole)
        path.chmod(mode)
    return done.returncode, " ".join(
        line.strip() for line in done.stderr.splitlines() if "error:" in line or "hint:" in line
    )


def main() -> None:
    """Flip, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path(), help="a project whose pipeline has run (default: here)")
    project = parser.parse_args().project.resolve()
    wrong = 0
    for name, stage, expected, maker in CASES:
        code, said = refuse(project, name, stage)
        right = code == expected and name in said and f"foundry run --from {maker} --force" in said
        wrong += not right
        print(f"| `{name}` | {stage} | {code} | {said} |{'' if right else ' WRONG'}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
