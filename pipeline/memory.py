"""How much memory this process holds, and has held at most."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def memory_bytes() -> tuple[int, int]:
    """Resident memory of this process now, and the most it has been, in bytes.

    On Linux from /proc, whose peak begins with the program. The peak of `getrusage`, which is taken where there is no
    /proc (macOS), begins with the process: it is that of whoever started it, if that held more before it made way.
    """
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
        return _kib(fields["VmRSS"]), _kib(fields["VmHWM"])
    import resource  # noqa: PLC0415 - only where there is no /proc

    import psutil  # noqa: PLC0415

    return psutil.Process().memory_info().rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


def _kib(field: str) -> int:
    return int(field.split(maxsplit=1)[0]) * 1024
