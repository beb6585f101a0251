"""What the health checks look at, and what they find."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from pipeline.data.encoded import EncodedSplit, beside_model, read_encoded, read_metadata
from pipeline.errors import ExportError
from pipeline.export.compare import continuation, heldout_rows, random_inputs
from pipeline.export.formats import FORMATS
from pipeline.export.opening import Process, Runner
from pipeline.export.source import Inputs
from pipeline.files import sha256_file, verify_manifest
from pipeline.models.transformer import Transformer

if TYPE_CHECKING:
    from pipeline.models.model import Model

Status = Literal["passed", "warning", "failed"]

BUNDLE = "bundle"  # its folder inside an export
SPLIT = "validation"  # what an export is compared on, beside made-up inputs
_PROMPT_TOKENS = 4


@dataclass(frozen=True)
class Outcome:
    """What a check found. `advice` says what to do about it when it did not pass."""

    status: Status
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    advice: str = ""


class Subject:
    """An export folder and the model it was made from. Use it in a `with` block.

    Args:
        model: the source, in evaluation mode.
        description: its model.json.
        model_folder: where both came from.
        folder: the export.
        manifest: that of the export.
        settings: the section `export` of the spec, complete: which formats there should be, and how exact they are.
        data_folder: of the tokenizer stage, for the held-out split; None: nothing held out is at hand.
    """

    def __init__(
        self,
        *,
        model: Model,
        description: Mapping[str, Any],
        model_folder: Path,
        folder: Path,
        manifest: Mapping[str, Any],
        settings: Mapping[str, Any],
        data_folder: Path | None = None,
    ) -> None:
        self.model, self.description, self.model_folder = model, description, model_folder
        self.folder, self.manifest, self.settings = folder, manifest, settings
        self.data_folder = data_folder
        self.threads = torch.get_num_threads()
        self._stack = ExitStack()
        self._waiting: dict[Path, Process] = {}  # started ahead: what each will open
        self._runners: dict[Path, Runner | ExportError] = {}
        self._nats: dict[bool, tuple[Inputs, float]] = {}  # whether of one document → rows and nats

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def writes_text(self) -> bool:
        """Whether the model predicts the token that follows each."""
        return isinstance(self.model, Transformer)

    @property
    def has_classes(self) -> bool:
        """Whether the model chooses among some classes or labels."""
        return hasattr(self.model, "num_classes")

    @property
    def has_heldout(self) -> bool:
        """Whether there is a split that the model was not trained on.

        Raises:
            ArtifactError: the encoded corpus is missing.
        """
        if self.data_folder is None:
            return False
        return bool(read_metadata(self.data_folder)["splits"][SPLIT]["documents"])

    @cached_property
    def heldout(self) -> EncodedSplit | None:
        """The split that the model was not trained on; None where there is none.

        Raises:
            ArtifactError: the encoded corpus is damaged.
            ExportError: it is of another tokenizer than the model.
        """
        if self.data_folder is None or not self.has_heldout:
            return None
        rebuild = "foundry run --from tokenizer --force"
        verify_manifest(self.data_folder, rebuild=rebuild)
        name = beside_model(read_metadata(self.data_folder))[0]
        if sha256_file(self.data_folder / name) != sha256_file(self.model_folder / name):
            message = f"the held-out split is of another tokenizer than the model in {self.model_folder}"
            raise ExportError(message, where=str(self.data_folder / name), hint="pass the data that the model is of")
        return read_encoded(self.data_folder, SPLIT)

    def reads_one_document(self, name: str) -> bool:
        """Whether a format takes for one document what the model would keep apart, and is compared on one."""
        return FORMATS[name].one_document and getattr(self.model, "separate_documents", False)

    def heldout_nats(self, name: str) -> tuple[Inputs, float]:
        """Rows of held-out text, (B, T + 1) ids, and how surprised the source model is by them: see `Runner.nats`."""
        assert self.heldout is not None
        one_document = self.reads_one_document(name)
        if one_document not in self._nats:
            rows = heldout_rows(self.heldout, self.model.max_seq_len, one_document=one_document)
            self._nats[one_document] = rows, self.source_runner().nats(rows)
        return self._nats[one_document]

    @cached_property
    def continued(self) -> tuple[list[int], list[int]]:
        """A short prompt, and what the source model writes after it."""
        model = self.model
        assert isinstance(model, Transformer)
        ids = random_inputs(model, 1, min(_PROMPT_TOKENS, model.max_seq_len - 1), one_document=True)[0].tolist()
        prompt = [self.description["bos_id"], *ids[1:]]
        return prompt, continuation(model, prompt, self.settings["generated_tokens"])

    def path(self, name: str) -> Path:
        """What a format wrote."""
        return self.folder / FORMATS[name].file

    def runner(self, name: str) -> Runner:
        """A format, open in a fresh process that its checks share.

        Raises:
            ExportError: it does not open; every check that asks is told so.
        """
        return self._open(name, self.path(name))

    def source_runner(self) -> Runner:
        """The source model, open in a fresh process, so that latencies are compared on equal terms."""
        return self._open("pytorch", self.model_folder)

    def start(self, name: str) -> None:
        """Start the process of a format before it is needed: its imports take seconds."""
        self._start(name, self.path(name))

    def start_source(self) -> None:
        """Start the process of the source model before it is needed."""
        self._start("pytorch", self.model_folder)

    def settle(self) -> None:
        """Return when no process is busy with imports: what is timed must have the processors for itself."""
        for process in self._waiting.values():
            with suppress(ExportError):  # the checks of its own format will say so
                process.wait()

    def _start(self, name: str, path: Path) -> None:
        process = Process(name, threads=self.threads)
        self._stack.callback(process.close)
        self._waiting[path] = process

    def _open(self, name: str, path: Path) -> Runner:
        if path not in self._runners:
            if path not in self._waiting:
                self._start(name, path)
            try:
                self._runners[path] = self._waiting.pop(path).open(path)
            except ExportError as error:
                self._runners[path] = error
        found = self._runners[path]
        if isinstance(found, ExportError):
            raise ExportError(found.message, where=found.where, hint=found.hint)
        return found

    def close(self, name: str) -> None:
        """End the process of a format, whose checks are done."""
        path = self.path(name)
        found = self._waiting.pop(path, None) or self._runners.pop(path, None)
        if isinstance(found, Process | Runner):
            found.close()
