"""Packing: a run becomes one file. The same run gives the same bytes in every clone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline import __version__
from pipeline.data.pictures import PICTURE_SOURCES, files_of_source
from pipeline.data.sources import own_files
from pipeline.files import MANIFEST, json_text, read_artefact, sha256_bytes, sha256_file, sync_folder
from pipeline.paths import OUTPUT_OF, work_dir
from pipeline.records.ledger import LEDGER
from pipeline.records.run_files import to_file
from pipeline.spec.lock import lock_of

from .archive import require_names, write_archive
from .content import DATA_ENDINGS, FORMAT, INDEX, LOCK, PATCH, RECORD, SPEC, WEIGHTS, may_hold
from .errors import BundleError
from .private import made_relative, require_portable, require_public
from .subject import Subject, find_subject

_PLAIN_FOLDERS = ("train", "validate")  # of the outputs of these stages, all but weights is packed
_NOT_READ = (".safetensors", ".model", ".png", LEDGER)  # endings of members without words: tensors, pictures, hashes
_DOWNLOADED = ("wheel", "url")  # kinds of source whose file lies among the downloads, under its hash

Members = dict[str, bytes | Path]


def create_repro_bundle(
    run: str | None = None,
    target: Path | str | None = None,
    *,
    data: bool = False,
    weights: bool = False,
    plots: Mapping[str, bytes] | None = None,
) -> Path:
    """Pack a run of the project in the current folder, so that it can be repeated elsewhere.

    Args:
        run: the beginning of a run's identity, or `latest`; `name:tag` or `name@version` of a registered model; None
            for what stands in this folder.
        target: the file; None: `repro_<run>.zip` in this folder. One that is there is replaced.
        data: pack what the corpus was built from, too.
        weights: pack the weights, too.
        plots: pictures of the run: name → bytes.

    Returns:
        The file.

    Raises:
        BundleError: the run cannot be proven, or something in it must not leave this machine. Nothing is written.
        FoundryError: there is no such run or model, or a file of it is damaged.
    """
    return pack_subject(find_subject(run), target, data=data, weights=weights, plots=plots)


def pack_subject(
    subject: Subject,
    target: Path | str | None = None,
    *,
    data: bool = False,
    weights: bool = False,
    plots: Mapping[str, bytes] | None = None,
) -> Path:
    """The same for a run that has been found; see `create_repro_bundle`."""
    members = _members(subject, plots or {})
    if weights:
        members |= {f"artifacts/model/{path.name}": path for path in sorted(subject.model.path.glob(WEIGHTS))}
    if data:
        members |= _data_of(subject)
    for name in members:
        if not may_hold(name):
            raise BundleError("a bundle cannot have this member", where=name, hint=_why_not(name))
    require_portable(subject.model.spec.to_dict(), SPEC)
    require_public(
        {
            name: source if isinstance(source, bytes) else source.read_bytes()
            for name, source in members.items()
            if not name.startswith(("data/", "downloads/")) and not name.endswith(_NOT_READ)
        }
    )
    path = Path(f"repro_{subject.identity}.zip" if target is None else target)
    _write(path, {INDEX: json_text(_index_of(subject, members)).encode(), **dict(sorted(members.items()))})
    return path


def _members(subject: Subject, plots: Mapping[str, bytes]) -> Members:
    """Every member but the index, data and weights."""
    spec = subject.model.spec
    members: Members = {SPEC: json_text(spec.to_dict()).encode(), LOCK: lock_of(spec).text.encode()}
    if subject.record is not None:
        record = {**subject.record, "git_diff": ""}  # which is code.patch
        members[RECORD] = json_text(made_relative(to_file(record))).encode()
    if subject.code.patch:
        members[PATCH] = subject.code.patch
    for stage, folder in subject.outputs.items():
        for path in sorted(folder.iterdir() if stage in _PLAIN_FOLDERS else [folder / MANIFEST]):
            if not path.match(WEIGHTS):
                members[f"{OUTPUT_OF[stage].as_posix()}/{path.name}"] = path
    if "train" in subject.outputs and subject.model.path == OUTPUT_OF["train"] and Path("dvc.lock").is_file():
        members["dvc.lock"] = Path("dvc.lock")
    members |= {f"reports/{name}": path for name, path in subject.reports.items()}
    return {**members, **{f"plots/{name}": drawn for name, drawn in plots.items()}}


def _index_of(subject: Subject, members: Members) -> dict[str, Any]:
    return {
        "format_version": FORMAT,
        "toolkit_version": __version__,
        "name": subject.model.spec.name,
        "run_id": None if subject.record is None else subject.record["run_id"],
        "training_run_id": subject.model.run_id,
        "model": subject.reference,
        "spec_hash": subject.model.spec.hash(),
        "code": {"commit": subject.code.commit, "folder": subject.code.folder},
        "environment": dict(subject.environment),
        "files": {name: _described(source) for name, source in sorted(members.items())},
    }


def _described(source: bytes | Path) -> dict[str, Any]:
    if isinstance(source, bytes):
        return {"sha256": sha256_bytes(source), "bytes": len(source)}
    return {"sha256": sha256_file(source), "bytes": source.stat().st_size}


def _write(path: Path, members: Members) -> None:
    """Write the archive beside its place, then put it there."""
    require_names([*members])
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_archive(file, members)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes 0600
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise
    sync_folder(path.parent)


# Data


def _data_of(subject: Subject) -> Members:
    """What the corpus was built from, if it still is what it was then.

    Raises:
        BundleError: a file has changed or gone, lies outside the project, or would be fetched again all the same.
    """
    if "corpus" not in subject.outputs:
        message = f"{OUTPUT_OF['corpus']} is not the corpus of this model"
        raise BundleError(message, hint="pack without --data, or bring its spec back and let `foundry run` restore it")
    inputs: dict[str, str] = read_artefact(subject.outputs["corpus"] / MANIFEST, "manifest")["inputs"]
    source = subject.model.spec.section("dataset")["source"]
    if source["kind"] in _DOWNLOADED:
        return dict(_downloads_of(source, inputs))
    own = files_of_source if source["kind"] in PICTURE_SOURCES else own_files
    files = own(source, Path())
    if not files and source["kind"] == "hub":
        hint = "pack without --data: the rows of a pinned commit are the same everywhere"
        raise BundleError("datasets of the hub are not packed", where=source["repository"], hint=hint)
    return dict(_own(files, inputs))


def _downloads_of(source: Mapping[str, Any], inputs: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    for name, sha256 in inputs.items():
        if source["sha256"] is None:
            hint = f"set dataset.source.sha256 to {sha256} and run again, or pack without --data"
            raise BundleError("a source that is not pinned is fetched anew each time", where=name, hint=hint)
        found = next((path for path in (work_dir() / "downloads" / sha256).glob("*") if path.is_file()), None)
        if found is None or sha256_file(found) != sha256:
            hint = "fetch it again: foundry run --from corpus --force"
            raise BundleError("what was downloaded is not there any more, or was changed", where=name, hint=hint)
        yield f"downloads/{sha256}/{found.name}", found


def _own(files: Mapping[str, Path], inputs: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    if gone := sorted(inputs.keys() - files.keys()):
        raise BundleError("the corpus was built from this file, which has gone", where=gone[0], hint="foundry run")
    for name, path in files.items():
        if inputs.get(name) != sha256_file(path):
            raise BundleError("the file has changed since the corpus was built", where=name, hint="foundry run")
        place = PurePosixPath(os.path.relpath(path))
        if place.is_absolute() or ".." in place.parts:
            hint = "move it into the project, and name it from there"
            raise BundleError("the file lies outside the project", where=name, hint=hint)
        yield f"data/{place}", path


def _why_not(name: str) -> str:
    if not name.startswith("data/"):
        return "rename the file: letters, digits, `.`, `_` and `-`"
    return f"data is packed that nothing acts upon: no hidden files, and endings {', '.join(sorted(DATA_ENDINGS))}"
