"""Datasets of the Hugging Face hub, or folders that are laid out like one: a column of one split, as documents.

Nothing of a repository is executed. `datasets` reads data files only since its version 4, which the extra requires;
a repository that comes as a loading script is refused.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import console
from pipeline.data.documents import Document, read_split, write_split
from pipeline.data.download import locked
from pipeline.errors import CorpusError
from pipeline.files import sha256_bytes, sha256_file

_BATCH = 1000  # rows read at a time
_PATIENCE = 30.0  # seconds for the hub to say which commit a dataset is at
_EXTRA = "pip install 'model-foundry[hub]'"


@dataclass(frozen=True)
class Rows:
    """Which rows of which dataset, and which of their columns.

    Attributes:
        repository: `owner/name` on the hub, or a folder, which begins with `.` or `/`.
        revision: the commit to read; None for a folder.
        subset: the configuration; None takes the only or the default one.
        split: which of its splits.
        text_field: the column with the text.
        max_rows: read this many of the first rows; None reads all.
    """

    repository: str
    revision: str | None
    subset: str | None
    split: str
    text_field: str
    max_rows: int | None

    @property
    def name(self) -> str:
        """The rows in one line: `owner/name@commit/subset/split[:max_rows]`."""
        place = self.repository if self.revision is None else f"{self.repository}@{self.revision}"
        return "/".join([place, *self._parts]) + ("" if self.max_rows is None else f"[:{self.max_rows}]")

    def document(self, text: str) -> Document:
        """The document of a row, named by its text alone: another revision or more rows move none to another split."""
        digest = sha256_bytes(text.encode())[:16]
        return Document(id=f"{'/'.join([self.repository, *self._parts])}#{digest}", text=text, plain=False)

    @property
    def _parts(self) -> list[str]:
        return [self.split] if self.subset is None else [self.subset, self.split]


def is_folder(repository: str) -> bool:
    """Whether `repository` is a folder of this machine, not a name on the hub."""
    return repository.startswith((".", "/"))


def folder_files(folder: Path) -> dict[str, Path]:
    """Name in the folder → file, for every file that is not hidden: each may decide what the dataset holds."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if not any(part[0] == "." for part in name.parts)}


def find_commit(repository: str, revision: str | None = None) -> str:
    """The commit that a dataset of the hub is at now, or the given one if it is there: 40 hexadecimal digits.

    Raises:
        CorpusError: the hub cannot be reached, or shows no such dataset.
    """
    with _hub_errors(repository):
        from huggingface_hub import HfApi  # noqa: PLC0415 - an extra

        return str(HfApi().dataset_info(repository, revision=revision, timeout=_PATIENCE).sha)


def hub_documents(rows: Rows, *, max_bytes: int, downloads: Path) -> tuple[list[Document], str]:
    """The texts of some rows of a dataset on the hub, which are kept and not fetched again.

    Args:
        rows: which ones, at a revision.
        max_bytes: more text than this is refused while it arrives.
        downloads: the folder that they are kept in.

    Returns:
        The documents in the order of the rows, and the SHA-256 of the file that holds them.

    Raises:
        CorpusError: they cannot be had, or are not text.
    """
    if Path(rows.repository).is_dir():  # the library would take it instead
        hint = f"write ./{rows.repository} to read the folder, or move it away to read the hub"
        raise CorpusError("there is a folder of this name here as well", where=rows.repository, hint=hint)
    folder = downloads / sha256_bytes(f"{rows.name}\n{rows.text_field}".encode())
    with locked(folder.with_suffix(".lock")):
        for kept in sorted(folder.glob("*.jsonl")):
            if sha256_file(kept) == kept.stem:
                return [rows.document(document.text) for document in read_split(kept)], kept.stem
            kept.unlink()  # damaged: get it again
        find_commit(rows.repository, rows.revision)  # says at once what `datasets` says after half a minute of retries
        console.say(f"reading {rows.name} from the hub")
        documents = _documents(rows, rows.repository, max_bytes)
        return documents, _keep(documents, folder)


def folder_documents(rows: Rows, folder: Path, *, max_bytes: int) -> list[Document]:
    """The texts of some rows of a dataset in a folder; arguments as for `hub_documents`.

    Raises:
        CorpusError: the folder does not exist or holds no such dataset, or the column is not text.
    """
    if not folder.is_dir():
        hint = "correct dataset.source.repository; a name on the hub is written owner/name, without a leading dot"
        raise CorpusError("the folder does not exist", where=rows.repository, hint=hint)
    return _documents(rows, str(folder.resolve()), max_bytes)


def _documents(rows: Rows, path: str, max_bytes: int) -> list[Document]:
    documents = []
    size = 0
    for text in _texts(rows, path):
        size += len(text.encode())
        if size > max_bytes:
            hint = "read fewer rows with dataset.source.max_rows"
            raise CorpusError(f"the rows hold more than {max_bytes} bytes of text", where=rows.name, hint=hint)
        documents.append(rows.document(text))
    return documents


def _texts(rows: Rows, path: str) -> Iterator[str]:
    """The column, row by row; it is downloaded as it is read. A row without text is empty: cleaning counts it."""
    with _hub_errors(rows.name), tempfile.TemporaryDirectory() as scratch:
        import datasets  # noqa: PLC0415 - an extra

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs, the error says
        datasets.config.TORCH_AVAILABLE = False  # else it imports torch, seconds of waiting for nothing
        builder = datasets.load_dataset_builder(path, name=rows.subset, revision=rows.revision, cache_dir=scratch)
        found = builder.as_streaming_dataset(split=rows.split)
        found = found if rows.max_rows is None else found.take(rows.max_rows)
        for batch in found.iter(batch_size=_BATCH):
            yield from _column(batch, rows)


def _column(batch: dict[str, list[object]], rows: Rows) -> Iterator[str]:
    if rows.text_field not in batch:
        hint = f"set dataset.source.text_field to one of its columns: {', '.join(batch)}"
        raise CorpusError(f"the dataset has no column {rows.text_field!r}", where=rows.name, hint=hint)
    for value in batch[rows.text_field]:
        if not isinstance(value, str | None):
            hint = f"set dataset.source.text_field to a column of text; its columns: {', '.join(batch)}"
            message = f"the column {rows.text_field!r} holds {type(value).__name__}, not text"
            raise CorpusError(message, where=rows.name, hint=hint)
        yield value or ""


def _keep(documents: list[Document], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="partial-") as scratch:
        path = Path(scratch) / "rows.jsonl"
        write_split(path, documents)
        digest = sha256_file(path)
        os.replace(path, folder / f"{digest}.jsonl")
    return digest


@contextmanager
def _hub_errors(where: str) -> Iterator[None]:
    """Say in one sentence what the libraries of the hub say in many kinds of exception."""
    try:
        from datasets import exceptions  # noqa: PLC0415 - an extra
        from huggingface_hub import errors  # noqa: PLC0415 - an extra
    except ImportError as error:
        message = f"datasets of the hub need an extra package: {error.name} is not installed"
        raise CorpusError(message, where=where, hint=_EXTRA) from error
    try:
        yield
    except (exceptions.DatasetNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        is_gated = isinstance(error, errors.GatedRepoError) or "is a gated dataset" in str(error)
        raise _not_shown(where, is_gated=is_gated) from error
    except FileNotFoundError as error:
        hint = "it must hold Parquet, JSON, CSV, Arrow or text files"
        raise CorpusError(f"there is no data in the dataset: {_first_line(error)}", where=where, hint=hint) from error
    except (ConnectionError, TimeoutError, errors.HTTPError) as error:
        hint = "check the network and HF_HUB_OFFLINE; what was read at a pinned revision is not fetched again"
        raise CorpusError(f"the hub cannot be reached: {_first_line(error)}", where=where, hint=hint) from error
    except (ValueError, RuntimeError, exceptions.DatasetsError) as error:
        hint = "correct subset or split in dataset.source, or take another dataset"
        raise CorpusError(f"the dataset cannot be read: {_first_line(error)}", where=where, hint=hint) from error


def _not_shown(where: str, *, is_gated: bool) -> CorpusError:
    if is_gated:
        hint = "ask for access on its page on the hub, then set HF_TOKEN or run: hf auth login"
        return CorpusError("the owner of the dataset decides who may read it", where=where, hint=hint)
    hint = "correct repository or revision in dataset.source; for a private dataset set HF_TOKEN"
    return CorpusError("the hub has no such dataset or revision, or does not show it", where=where, hint=hint)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
