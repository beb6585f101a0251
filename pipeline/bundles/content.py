"""What is in a bundle: the members that one may have, and its index, which lists each with size and hash.

bundle.json                      the index
spec.json, spec.lock.json        the resolved spec, and what of it shapes the result
record.json                      the record of the run, where there is one
code.patch                       how the code differed from its commit, where it did
dvc.lock, reports/…, plots/…     as the run left them
artifacts/<folder>/…             the manifest of each stage, and what else tells of a run without being large
artifacts/model/*.safetensors    with --weights
data/…, downloads/…              with --data: the files that the corpus was built from, and what was downloaded
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.artefacts import kind_of
from pipeline.closing import Closing
from pipeline.errors import ArtifactError
from pipeline.files import MANIFEST, parse_artefact
from pipeline.paths import OUTPUT_OF, STAGES
from pipeline.records.model_folder import WEIGHTS as _WEIGHTS_FILE
from pipeline.spec import Spec, parse_spec

from .archive import Archive
from .errors import BundleError
from .private import require_portable

INDEX, SPEC, LOCK, RECORD, PATCH = "bundle.json", "spec.json", "spec.lock.json", "record.json", "code.patch"
FORMAT = 1
WEIGHTS = "*.safetensors"
# What a file of data may end in: what a source reads, and nothing that Python, DVC or git would act upon.
DATA_ENDINGS = frozenset(
    (
        *(".txt", ".text", ".md", ".markdown", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".gz", ".parquet"),
        *(".arrow", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"),
    )
)
# Members by themselves, and patterns of the others. A pattern is of one folder.
_ALONE = (INDEX, SPEC, LOCK, RECORD, PATCH, "dvc.lock")
_PATTERNS: Sequence[re.Pattern[str]] = (
    re.compile(r"reports/[\w.-]+\.(json|csv|md)"),
    re.compile(r"plots/[\w.-]+\.(svg|png|html)"),
    re.compile(r"artifacts/(corpus|tokenizer|export)/manifest\.json"),
    re.compile(r"artifacts/(model|validation)/[\w.-]+"),
    re.compile(r"downloads/[0-9a-f]{64}/[\w.+-]+"),
)
_MODEL = OUTPUT_OF["train"].as_posix()
_NEEDED = (SPEC, LOCK, f"{_MODEL}/{MANIFEST}", f"{_MODEL}/model.json")
_KINDS = {SPEC: "spec", LOCK: "lock", RECORD: "run_record"}  # members whose names say nothing elsewhere


def may_hold(name: str) -> bool:
    """Whether a bundle may have a member of this name."""
    if name.startswith("data/"):
        path = PurePosixPath(name)
        hidden = any(part.startswith(".") for part in path.parts)
        return len(path.parts) > 1 and not hidden and path.suffix.lower() in DATA_ENDINGS
    return name in _ALONE or any(pattern.fullmatch(name) for pattern in _PATTERNS)


class Bundle(Closing):
    """A bundle of which every byte has been checked: what its index says of a member is true.

    Args:
        path: the file.

    Raises:
        BundleError: it is no bundle, was changed or cut off, or holds what no bundle may.
        ArtifactError: a document in it is not what its schema says, or is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)
        try:
            self.index = self._read_index()
            self.spec = self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    @property
    def names(self) -> list[str]:
        """The members but for the index."""
        return [*self.index["files"]]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Stage → its manifest, for those that the bundle knows the results of."""
        names = {stage: f"{OUTPUT_OF[stage].as_posix()}/{MANIFEST}" for stage in STAGES}
        return {stage: self.json(name) for stage, name in names.items() if name in self.index["files"]}

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the weights of its model, packed or not."""
        found: str = self.stages["train"]["files"][_WEIGHTS_FILE]["sha256"]
        return found

    def read(self, name: str) -> bytes:
        """The bytes of a document; empty where there is no such member."""
        return self._archive.read(name) if name in self.index["files"] else b""

    def json(self, name: str) -> Any:
        """The value in a document of JSON."""
        return json.loads(self.read(name))

    def below(self, folder: str) -> dict[str, str]:
        """Path below a folder → member."""
        return {name.removeprefix(f"{folder}/"): name for name in self.names if name.startswith(f"{folder}/")}

    def unpack(self, name: str, target: Path) -> None:
        """Write a member to a new file.

        Raises:
            BundleError: the file is there already, or the bundle changed since it was checked.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError as error:
            raise BundleError("a file of the bundle would replace one that is there", where=str(target)) from error
        digest = hashlib.sha256()
        with _removed_on_failure(target), os.fdopen(descriptor, "wb") as file:
            for chunk in self._archive.chunks(name):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != self.index["files"][name]["sha256"]:
                raise self._refused(f"{name!a} changed since it was checked")

    def _read_index(self) -> dict[str, Any]:
        first = next(iter(self._archive.entries), "")
        if first != INDEX:
            raise self._refused(f"its first member is not {INDEX}")
        text = self._text(INDEX, self._archive.read(INDEX))
        index: dict[str, Any] = parse_artefact(text, "repro_bundle", f"{self.path}: {INDEX}")
        return index

    def _check(self) -> Spec:
        files: Mapping[str, Mapping[str, Any]] = self.index["files"]
        entries = {name: entry for name, entry in self._archive.entries.items() if name != INDEX}
        if missing := sorted(files.keys() - entries.keys()):
            raise self._refused(f"{missing[0]!a} is missing, the index lists it")
        if others := sorted(entries.keys() - files.keys()):
            raise self._refused(f"the index does not list {others[0]!a}")
        for name, entry in entries.items():
            if not may_hold(name):
                raise self._refused(f"{name!a} is no member of a bundle")
            digest = hashlib.sha256()
            for chunk in self._archive.chunks(name):
                digest.update(chunk)
            if entry.size != files[name]["bytes"] or digest.hexdigest() != files[name]["sha256"]:
                raise self._refused(f"{name!a} is not the file that the index lists: the SHA-256 differs")
        for name in _NEEDED:
            if name not in files:
                raise self._refused(f"it has no {name}")
        self._check_documents()
        spec = parse_spec(self.read(SPEC), f"{self.path}: {SPEC}")
        if not self.index["spec_hash"] == spec.hash() == self.json(LOCK)["hash"]:
            raise self._refused("its spec, its lock and its index are not of one run")
        require_portable(spec.to_dict(), f"{self.path}: {SPEC}")
        return spec

    def _check_documents(self) -> None:
        """Hold every document to the schema of its kind, and what was packed of a model to the model's manifest."""
        for name in self.names:
            kind = _KINDS.get(name) or (None if name.startswith("data/") else kind_of(PurePosixPath(name)))
            if kind is not None:
                try:
                    parse_artefact(self._text(name, self.read(name)), kind, f"{self.path}: {name}")
                except ArtifactError as error:
                    hint = "get the bundle again from where it was packed, or use the version that packed it"
                    raise BundleError(error.message, where=error.where, hint=hint) from error
        if _WEIGHTS_FILE not in self.stages["train"]["files"]:
            raise self._refused("the manifest of its model lists no weights")
        for stage, manifest in self.stages.items():
            for name, member in self.below(OUTPUT_OF[stage].as_posix()).items():
                told = manifest["files"].get(name, {}).get("sha256")
                if name != MANIFEST and told != self.index["files"][member]["sha256"]:
                    raise self._refused(f"{member!a} is not the file that the manifest beside it lists")
        for name in self.below("downloads").values():
            if self.index["files"][name]["sha256"] != name.split("/")[1]:
                raise self._refused(f"{name!a} is not what was downloaded")

    def _text(self, name: str, raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._refused(f"{name!a} is not UTF-8 text") from error

    def _refused(self, reason: str) -> BundleError:
        hint = "get the bundle again from where it was packed"
        return BundleError(f"the bundle was changed or damaged: {reason}", where=str(self.path), hint=hint)


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink()
        raise
