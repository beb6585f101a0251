"""The model registry: versions of models, kept safe, and the tags that say which one is in use.

`register` copies a model folder into the folder of the registry, so that the next training run cannot replace it, and
remembers the SHA-256 of its manifest, and with it of every file. Whoever asks for the folder of a model gets it only
after all of it was hashed again. Everything that is done is one transaction, and leaves a line in the audit trail.

    model_registry.db                        models, tags, exports, audit trail
    models/<name>/<version>/model/           the model folder
    models/<name>/<version>/exports/<n>/     exports of it
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from sqlite3 import Connection, Row
from typing import Any

from pipeline.closing import Closing
from pipeline.errors import ArtifactError, FoundryError
from pipeline.files import manifest_hash
from pipeline.paths import is_registered_name, registry_dir
from pipeline.records.model_folder import ModelFolder, is_export, model_of_export, read_export, read_model_folder
from pipeline.records.registered import (
    Reference,
    RegisteredModel,
    RegistryError,
    Status,
    require_figures,
    require_word,
)
from pipeline.records.registry_files import as_registered, copy, incoming, move_in, remove, writing
from pipeline.records.registry_rows import ANCESTORS, DESCENDANTS, insert, note, query_of
from pipeline.records.store import Store, now
from pipeline.records.versions import FIRST, Bump, Version, bump_between
from pipeline.spec.difference import NOT_THERE, differences

DATABASE = "model_registry.db"
_MIGRATIONS = Path(__file__).parent / "migrations" / "registry"
_MEND = "put back a copy of the file; the models themselves lie beside it, under models/"
_LIST = "`foundry models list` shows what there is"


class ModelRegistry(Closing):
    """The registry in a folder. Belongs to one thread; close it, or use it as a context.

    Methods that take a `reference` take the id of a model, `name:tag` or `name@version`, and raise RegistryError where
    it names no model, or more than one.

    Args:
        folder: of the registry; None: `registry`, or what FOUNDRY_REGISTRY says. It is made where there is none.

    Raises:
        RecordsError: the database is damaged, of a newer version, or cannot be opened.
        RegistryError: the folder cannot be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = registry_dir() if folder is None else folder
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._store = Store(self.folder / DATABASE, migrations=_MIGRATIONS, mend=_MEND, durable=True)

    def close(self) -> None:
        """Close the database."""
        self._store.close()

    # What there is

    def get_model(self, reference: str | int) -> RegisteredModel:
        """The model of a reference."""
        wanted = Reference.parse(reference)
        query, values = query_of(wanted)
        found = self._models(query, values)
        if len(found) > 1:
            names = ", ".join(map(str, found))
            hint = f"name one of them by its version, or promote one without keeping the others: {names}"
            raise RegistryError(f"{len(found)} models hold {wanted.text}", hint=hint)
        if not found:
            raise RegistryError(f"there is no model {wanted.text} in {self.folder}", hint=_LIST)
        return found[0]

    def list_models(
        self,
        *,
        name: str | None = None,
        task_type: str | None = None,
        tag: str | None = None,
        status: Status | None = None,
        metric: str | None = None,
        min_metric_value: float | None = None,
        max_metric_value: float | None = None,
    ) -> list[RegisteredModel]:
        """The models that fit all that is said, the newest first.

        Args:
            name: theirs.
            task_type: what they were trained for.
            tag: that they hold.
            status: `active` or `retired`.
            metric: only those that have it.
            min_metric_value: the least that it may be.
            max_metric_value: the most that it may be.
        """
        least = float("-inf") if min_metric_value is None else min_metric_value
        most = float("inf") if max_metric_value is None else max_metric_value
        return [
            model
            for model in self._models(
                "SELECT * FROM registered WHERE ? IN ('', name) ORDER BY model_id DESC", (name or "",)
            )
            if task_type in (None, model.task_type)
            and (tag is None or tag in model.tags)
            and status in (None, model.status)
            and (metric is None or (metric in model.metrics and least <= model.metrics[metric] <= most))
        ]

    def get_lineage(self, reference: str | int) -> dict[str, list[RegisteredModel]]:
        """The `ancestors` of a model, the first one first, and its `descendants`, parents before children."""
        model = self.get_model(reference)
        return {
            "ancestors": self._models(ANCESTORS, (model.model_id,))[::-1],
            "descendants": self._models(DESCENDANTS, (model.model_id,)),
        }

    def compare_models(self, *references: str | int) -> dict[str, Any]:
        """What differs between models.

        Returns:
            `models`; `metrics`: name → a value for each model, None where it has none; `settings`: dotted setting → the
            same for what the specs say differently, with all defaults filled in.

        Raises:
            ArtifactError: a file of one of them is damaged.
        """
        models = [self.get_model(reference) for reference in references]
        folders = [read_model_folder(self._verified(model)) for model in models]
        names = dict.fromkeys(name for model in models for name in model.metrics)
        first = folders[0].spec
        found = [{each.path: each for each in differences(first, folder.spec)} for folder in folders]
        base = {path: each.old for differing in found for path, each in differing.items()}
        return {
            "models": models,
            "metrics": {name: [model.metrics.get(name) for model in models] for name in names},
            "settings": {
                path: [_plain(differing[path].new if path in differing else value) for differing in found]
                for path, value in base.items()
            },
        }

    def get_history(self, name: str | None = None) -> list[dict[str, Any]]:
        """The audit trail, the oldest line first: all of it, or that of the models of one name."""
        rows = self._store.rows("SELECT * FROM model_events WHERE ? IN ('', name) ORDER BY event_id", (name or "",))
        return [{**dict(row), "details": json.loads(row["details"])} for row in rows]

    # Their files

    def get_folder(self, reference: str | int) -> Path:
        """The model folder of a model, after every file of it was hashed.

        Raises:
            ArtifactError: a file is missing or not the one that was registered.
        """
        return self._verified(self.get_model(reference))

    def get_export(self, reference: str | int) -> Path:
        """The newest export of a model, after every file of it was hashed.

        Raises:
            ArtifactError: a file is missing or not the one that was registered.
            RegistryError: nothing was exported from the model.
        """
        model = self.get_model(reference)
        rows = self._exports(model)
        if not rows:
            hint = f"export it with: foundry models export {model}"
            raise RegistryError(f"{model} has no registered export", hint=hint)
        return as_registered(self.folder / rows[-1]["export_path"], rows[-1]["manifest_sha256"])

    def verify(self, reference: str | int) -> list[str]:
        """Hash every file of a model and of its exports again.

        Returns:
            What is wrong, a line for each folder in which something is; nothing if all is as it was registered.
        """
        model = self.get_model(reference)
        known = [(model.checkpoint_path, model.manifest_sha256)]
        known += [(self.folder / row["export_path"], row["manifest_sha256"]) for row in self._exports(model)]
        problems = []
        for folder, sha256 in known:
            try:
                as_registered(folder, sha256)
            except ArtifactError as error:
                problems.append(str(error))
        return problems

    # What can be done with them

    def propose_version(self, source: Path, *, name: str | None = None) -> tuple[str, Version, Bump | None]:
        """Under which name and version a folder would be registered, and why; arguments as for `register_model`.

        Returns:
            Name, version, and how it follows from the highest version of that name; None: there is none yet.
        """
        folder = read_model_folder(model_of_export(source) if is_export(source) else source)
        called = _name_of(folder, name)
        return called, *self._next_version(called, folder)

    def register_model(
        self,
        source: Path,
        *,
        name: str | None = None,
        version: str | None = None,
        parent: str | int | None = None,
        tags: Collection[str] = (),
        metrics: Mapping[str, float] | None = None,
        memory_req_gb: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RegisteredModel:
        """Copy a model into the registry.

        Args:
            source: a model folder, or an export with the format `pytorch`, which is registered with it.
            name: what to call it; None: as its spec does (`model.model_name`).
            version: of it; None: what follows from the highest version of that name by the difference of the specs.
            parent: the model that it comes from; None: the one whose weights its training began with, if registered.
            tags: to promote it to.
            metrics: name → figure, beside the `val_loss` of training.
            memory_req_gb: what using it takes, in 10^9 bytes.
            metadata: what else is to be remembered, for JSON.

        Raises:
            ArtifactError: a file of the folder is missing or damaged, or it is neither model folder nor export.
            RegistryError: name, version or weights are registered already, or a name, tag or figure cannot be.
        """
        for tag in tags:
            require_word("tag", tag)
        export = source if is_export(source) else None
        folder = read_model_folder(source if export is None else model_of_export(export))
        exported = [] if export is None else _formats_of(export, folder)
        called = _name_of(folder, name)
        losses = {} if folder.val_loss is None else {"val_loss": folder.val_loss}
        said = {
            "metrics": json.dumps(require_figures({**losses, **(metrics or {})})),
            "memory_req_gb": memory_req_gb,
            "metadata": json.dumps(dict(metadata or {}), allow_nan=False),
        }
        with incoming(self.folder) as arriving:
            copy(folder.path, arriving / "model", folder.manifest_sha256)
            if export is not None:
                copy(export, arriving / "exports" / "1", manifest_hash(export))
            with self._store.transaction() as connection:
                self._refuse_twins(called, folder)
                number, bump = self._version(called, version, folder)
                place = Path("models") / called / str(number)
                row = {
                    **_columns(folder),
                    **said,
                    "name": called,
                    "version": str(number),
                    "checkpoint_path": (place / "model").as_posix(),
                    "parent_model_id": self._parent(parent, folder),
                }
                model = self.get_model(insert(connection, "models", **row))
                note(connection, "registered", model, bump=None if bump is None else str(bump))
                if export is not None:
                    self._note_export(connection, model, export, place / "exports" / "1", exported)
                for tag in tags:
                    self._promote(connection, model, tag, keep_others=False)
                move_in(arriving, self.folder / place)
        return self.get_model(model.model_id)

    def promote_model(self, reference: str | int, tag: str, *, keep_others: bool = False) -> RegisteredModel:
        """Give a model a tag, and take it from the other models of its name: both or neither.

        Args:
            reference: the model.
            tag: such as `production` or `staging`.
            keep_others: let other models keep the tag; `name:tag` then names none of them.

        Raises:
            ArtifactError: a file of the model is damaged.
            RegistryError: the model is retired.
        """
        require_word("tag", tag)
        self.get_folder(reference)
        with self._store.transaction() as connection:
            model = self.get_model(reference)
            if model.status == "retired":
                raise RegistryError(f"{model} is retired", hint="promote an active model, or register it anew")
            self._promote(connection, model, tag, keep_others=keep_others)
        return self.get_model(model.model_id)

    def retire_model(self, reference: str | int, *, force: bool = False) -> RegisteredModel:
        """Say that a model is not to be used any more. It keeps its files, its version and its place in the lineage.

        Args:
            reference: the model.
            force: take away its tags; without it, a model that has some is not retired.

        Raises:
            RegistryError: it has tags.
        """
        with self._store.transaction() as connection:
            model = self.get_model(reference)
            _refuse_tagged(model, "retired", force=force)
            if model.status == "active":
                connection.execute("DELETE FROM model_tags WHERE model_id = ?", (model.model_id,))
                connection.execute("UPDATE models SET status = 'retired' WHERE model_id = ?", (model.model_id,))
                note(connection, "retired", model, tags=model.tags)
        return self.get_model(model.model_id)

    def delete_model(self, reference: str | int, *, force: bool = False) -> RegisteredModel:
        """Remove a model, its exports and all of their files; the audit trail stays. Its children lose their parent.

        Args:
            reference: the model.
            force: also when it has tags.

        Returns:
            What it was.

        Raises:
            RegistryError: it has tags.
        """
        with self._store.transaction() as connection:
            model = self.get_model(reference)
            _refuse_tagged(model, "deleted", force=force)
            note(connection, "deleted", model, tags=model.tags)
            connection.execute("DELETE FROM models WHERE model_id = ?", (model.model_id,))
        remove(model.checkpoint_path.parent)  # nobody else's, even if it is slow: a version is not given again
        return model

    def add_export(self, reference: str | int, source: Path) -> RegisteredModel:
        """Copy an export of a model into the registry.

        Args:
            reference: the model.
            source: an export folder, made from that very model.

        Raises:
            ArtifactError: a file of either is missing or damaged, or the folder is no export.
            RegistryError: the export was made from another model.
        """
        formats = _formats_of(source, read_model_folder(self.get_folder(reference)))
        with incoming(self.folder) as arriving:
            copied = arriving / "export"
            copy(source, copied, manifest_hash(source))
            with self._store.transaction() as connection:
                model = self.get_model(reference)
                place = Path("models", model.name, model.version, "exports", str(len(self._exports(model)) + 1))
                self._note_export(connection, model, source, place, formats)
                move_in(copied, self.folder / place)
        return self.get_model(model.model_id)

    # Inside a transaction

    def _promote(self, connection: Connection, model: RegisteredModel, tag: str, *, keep_others: bool) -> None:
        others = [] if keep_others else [each for each in self.list_models(name=model.name, tag=tag) if each != model]
        for other in others:
            connection.execute("DELETE FROM model_tags WHERE model_id = ? AND tag = ?", (other.model_id, tag))
            note(connection, "demoted", other, tag=tag, by=str(model))
        if tag not in model.tags:
            insert(connection, "model_tags", model_id=model.model_id, tag=tag, created_at=now())
            note(connection, "promoted", model, tag=tag)

    def _refuse_twins(self, name: str, folder: ModelFolder) -> None:
        for model in self.list_models(name=name):
            if model.weights_sha256 == folder.weights_sha256:
                hint = f"give it a tag with: foundry models promote {model} TAG"
                raise RegistryError(f"the same weights are registered as {model}", hint=hint)

    def _version(self, name: str, said: str | None, folder: ModelFolder) -> tuple[Version, Bump | None]:
        """The version that someone wants, if it is free; else the one that follows from what there is."""
        if said is None:
            return self._next_version(name, folder)
        version = Version.parse(said)
        if str(version) in self._given(name):
            hint = "a version is given once, also when its model was deleted: give another one, or none"
            raise RegistryError(f"{name}@{version} was registered before", hint=hint)
        return version, None

    def _next_version(self, name: str, folder: ModelFolder) -> tuple[Version, Bump | None]:
        known = {Version.parse(model.version): model for model in self.list_models(name=name)}
        if not known:
            return self._free(name, FIRST), None
        highest = max(known)
        try:
            before = read_model_folder(self._verified(known[highest]))
        except FoundryError as error:
            message = f"the version cannot follow from {known[highest]}: {error}"
            raise RegistryError(message, hint="mend that model, or give the version yourself: --version") from error
        found = differences(before.spec, folder.spec)
        bump = bump_between(found, other_vocabulary=before.vocabulary != folder.vocabulary)
        return self._free(name, highest.next(bump.part)), bump

    def _free(self, name: str, version: Version) -> Version:
        """A version, or the patch after it that no model of the name ever had."""
        given = self._given(name)
        while str(version) in given:
            version = version.next("patch")
        return version

    def _given(self, name: str) -> set[str]:
        """The versions that models of a name have or had: a version that was used once never means something else."""
        query = "SELECT version FROM model_events WHERE name = ? AND action = 'registered'"
        return {row["version"] for row in self._store.rows(query, (name,))}

    def _parent(self, reference: str | int | None, folder: ModelFolder) -> int | None:
        if reference is not None:
            return self.get_model(reference).model_id
        query = "SELECT max(model_id) FROM models WHERE weights_sha256 = ?"
        found: int | None = self._store.rows(query, (folder.start_sha256,))[0][0]
        return found

    def _note_export(
        self, connection: Connection, model: RegisteredModel, export: Path, place: Path, formats: list[str]
    ) -> None:
        insert(
            connection,
            "model_exports",
            model_id=model.model_id,
            export_formats=json.dumps(formats),
            export_path=place.as_posix(),
            manifest_sha256=manifest_hash(export),
            created_at=now(),
        )
        every = [*dict.fromkeys([*model.export_formats, *formats])]
        connection.execute(
            "UPDATE models SET export_formats = ? WHERE model_id = ?", (json.dumps(every), model.model_id)
        )
        note(connection, "exported", model, formats=formats)

    # Rows and files

    def _models(self, query: str, parameters: tuple[Any, ...] = ()) -> list[RegisteredModel]:
        return [RegisteredModel.of_row(row, folder=self.folder) for row in self._store.rows(query, parameters)]

    def _exports(self, model: RegisteredModel) -> list[Row]:
        query = "SELECT * FROM model_exports WHERE model_id = ? ORDER BY export_id"
        return self._store.rows(query, (model.model_id,))

    def _verified(self, model: RegisteredModel) -> Path:
        return as_registered(model.checkpoint_path, model.manifest_sha256)


def registry_exists(folder: Path | None = None) -> bool:
    """Whether there is a registry; asking makes none."""
    return ((registry_dir() if folder is None else folder) / DATABASE).is_file()


def open_registry() -> ModelRegistry:
    """The registry of this project, which must be there.

    Raises:
        RegistryError: nothing was ever registered.
    """
    if not registry_exists():
        hint = "register a model with: foundry models register; FOUNDRY_REGISTRY names the folder of another registry"
        raise RegistryError("there is no model registry here", where=str(registry_dir() / DATABASE), hint=hint)
    return ModelRegistry()


def model_at(path: str | Path) -> Path:
    """The model folder that someone means: of the registry for `name:tag` and `name@version`, else the path itself.

    Raises:
        RegistryError: there is no such model.
        ArtifactError: a file of the registered model is missing or not the one that was registered.
    """
    if not is_registered_name(str(path)):
        return Path(path)
    with open_registry() as registry:
        return registry.get_folder(str(path))


def _columns(folder: ModelFolder) -> dict[str, Any]:
    """What the row of a model takes from its folder."""
    return {
        "manifest_sha256": folder.manifest_sha256,
        "weights_sha256": folder.weights_sha256,
        "task_type": folder.description["task_type"],
        "config_hash": folder.config_hash,
        "training_run_id": folder.run_id,
        "model_size_mb": folder.size_mb,
        "created_at": now(),
    }


def _formats_of(export: Path, folder: ModelFolder) -> list[str]:
    """The formats of an export, after checking every file of it, and that it was made from a model.

    Raises:
        ArtifactError: a file is missing or damaged, or the folder is no export.
        RegistryError: it was made from another model.
    """
    manifest = read_export(export)
    if manifest["inputs"].get("model") != folder.model_sha256:
        hint = "add the export that was made from this model, or register the model that it was made from"
        raise RegistryError("the export was made from another model", where=str(export), hint=hint)
    formats: list[str] = manifest["sections"]["export"]["formats"]
    return formats


def _name_of(folder: ModelFolder, name: str | None) -> str:
    return require_word("name", folder.description["model_name"] if name is None else name)


def _refuse_tagged(model: RegisteredModel, what: str, *, force: bool) -> None:
    if model.tags and not force:
        hint = f"promote another model to {model.tags[0]} first, or insist with --force"
        raise RegistryError(f"{model} is {', '.join(model.tags)} and is not {what}", hint=hint)


def _plain(value: Any) -> Any:
    return None if value is NOT_THERE else value
