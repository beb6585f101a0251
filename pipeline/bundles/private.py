"""What must not leave a machine in a bundle: credentials, and where things lie on it.

Variables of the environment are never packed. Documents are packed as they are, because their hashes must hold, so one
with a credential or a path of this machine in it is refused, with its line, and never shown.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import BundleError

# What a credential looks like → what to call it. Only forms that mean nothing else: the word `token` alone is no sign.
_CREDENTIALS: Mapping[str, str] = {
    r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#@\"'<>]*:[^\s/?#@\"'<>]+@": "a user name and a password in an address",
    r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s/?#@:\"'<>]{16,}@": "a token in an address",
    r"[?&](?:access_token|api_?key|auth|key|password|sig|signature|token|X-Amz-Signature)=[^&\s\"']{8,}": (
        "a token in the query of an address"
    ),
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY": "a private key",
    r"(?i:authorization)\W{1,4}(?i:basic|bearer|token)\s+[\w.~+/-]{8,}": "an authorization header",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b": "a key of AWS",
    r"\bAIza[\w-]{35}": "a key of Google",
    r"\b(?:gh[oprsu]_\w{36}|github_pat_\w{22})": "a token of GitHub",
    r"\bglpat-[\w-]{20}": "a token of GitLab",
    r"\bhf_[A-Za-z0-9]{30}": "a token of Hugging Face",
    r"\bnpm_[A-Za-z0-9]{36}": "a token of npm",
    r"\bpypi-[\w-]{50}": "a token of PyPI",
    r"\bsk-[\w-]{20}": "a key of an API",
    r"\bxox[abeprs]-[\w-]{10}": "a token of Slack",
    r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}": "a signed token (JWT)",
    r"(?i)[\w-]*(?:api_?key|passw(?:or)?d|secret|access_?token|auth_?token)[\"']?\s*[:=]\s*[\"'][^\"'\s]{8,}[\"']": (
        "a password or key that is written out"
    ),
}
_FORMS = [(re.compile(form), words) for form, words in _CREDENTIALS.items()]
# Folders in which people live, on any machine.
_HOMES = r"(?<![\w./:-])(?:/(?:home|Users)/[\w.-]+|/root(?=/)|[A-Za-z]:\\+Users\\+[\w.-]+)"
_SHORTEST_PLACE = 3  # parts: `/` and `/work` say nothing of a machine, and would be found everywhere
# Settings that name a place, or may.
_PLACES = ("dataset.source", "training.resume_from_checkpoint")
_MEND = "take it out where it stands, run `foundry run`, and pack again"


def require_public(documents: Mapping[str, bytes]) -> None:
    """Insist that documents hold neither a credential nor a path of this machine.

    Args:
        documents: name of the member → its bytes.

    Raises:
        BundleError: one does; says which, in which line, and what it looks like, and does not repeat it.
    """
    for name, raw in documents.items():
        for line, what in private_in(raw.decode(errors="replace")):
            raise BundleError(f"the document holds what looks like {what}", where=f"{name}:{line}", hint=_MEND)


def private_in(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a text that hold something private, from 1, and what that looks like."""
    places = "|".join((_HOMES, *(rf"{re.escape(str(each))}(?![\w-])" for each in _places_here())))
    forms = [*_FORMS, (re.compile(places), "a path of this machine")]
    for number, line in enumerate(text.split("\n"), start=1):
        yield from ((number, words) for form, words in forms if form.search(line))


def made_relative(value: Any) -> Any:
    """A value of JSON in which the project's folder is `.`, and the user's is `~`."""
    if isinstance(value, str):
        for place in _places_here():
            short = "~" if place == _home() else "."
            value = re.sub(rf"{re.escape(str(place))}(?![\w-])", short, value)
        return re.sub(_HOMES, "~", value)
    if isinstance(value, Mapping):
        return {made_relative(key): made_relative(inner) for key, inner in value.items()}
    return [made_relative(inner) for inner in value] if isinstance(value, list) else value


def require_portable(settings: Mapping[str, Any], where: str) -> None:
    """Insist that the settings of a spec name no place outside its project, and send nothing to a service.

    Args:
        settings: the resolved spec.
        where: the file, for the message.

    Raises:
        BundleError: one does.
    """
    for setting in _PLACES:
        value: Any = settings
        for key in setting.split("."):
            value = value[key]
        for text in _texts(value):
            if _leads_out(text):
                message = f"{setting} leads out of the project ({text!r}), where another machine has something else"
                raise BundleError(message, where=where, hint="move it into the project, and name it from there")
    log = settings["logging"]
    if log["use_wandb"] and log["wandb_mode"] == "online":
        hint = "set logging.wandb_mode to offline, or use_wandb to false, and run again"
        raise BundleError("each replay would report to the service of Weights & Biases", where=where, hint=hint)


def _leads_out(text: str) -> bool:
    return text.startswith(("/", "~", "\\", "file:")) or ".." in re.split(r"[/\\]", text) or text[1:2] == ":"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _places_here() -> list[Path]:
    """Folders of this machine that documents have no reason to name, the longest first."""
    places = {Path.cwd(), Path(os.path.realpath(Path.cwd())), _home(), Path(sys.prefix)}
    return sorted((each for each in places if len(each.parts) >= _SHORTEST_PLACE), key=lambda each: -len(str(each)))


def _home() -> Path:
    return Path(os.path.expanduser("~"))  # noqa: PTH111 - unlike Path.home(), it does not raise where there is none
