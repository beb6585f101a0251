"""Tier 1: proofs that nothing is seen, learned from or counted that must not be."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline.data.batches import IGNORED
from pipeline.data.documents import Document
from pipeline.data.encoded import EncodedSplit
from pipeline.data.leakage import PASSAGE, audit
from pipeline.data.tokenizer import Tokenizer
from pipeline.models.bert import Bert
from pipeline.models.cnn import Cnn
from pipeline.models.transformer import DOCUMENT_START, Transformer
from pipeline.tiers.examples import EXAMPLES, random_batch
from pipeline.tiers.subject import Outcome, Subject, far_apart, is_close, logits

_LENGTH = 32  # tokens of the sequences that are looked at
_ROWS = 4
_LEAKED = 0.01  # of the held-out characters: more is no chance phrase
_AUDITED = ("validation", "test")


def determinism(subject: Subject) -> Outcome:
    """Two passes give the same bits, draw no random number, and leave the model as it was."""
    inputs = subject.inputs(_ROWS, subject.length(_LENGTH))
    before = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    drawn = torch.get_rng_state()
    first, second = logits(subject.model, inputs), logits(subject.model, inputs)
    flaws = {
        "two passes differ": not torch.equal(first, second),
        "a pass draws random numbers": not torch.equal(drawn, torch.get_rng_state()),
        "a pass changes the model": any(
            not torch.equal(before[name], tensor) for name, tensor in subject.model.state_dict().items()
        ),
    }
    return _judged(flaws, "two passes are equal bit for bit", "equal bits; no random number; no change")


def causal_isolation(subject: Subject) -> Outcome:
    """Whatever follows a token, its logits are the same bits."""
    model = subject.attending
    assert isinstance(model, Transformer)
    ids = subject.tokens(_ROWS, subject.length(_LENGTH))
    ours, length = logits(model, ids), ids.shape[1]
    places = sorted({1, length // 2, length - 1})
    leaks = []
    for place in places:
        changed = torch.cat((ids[:, :place], subject.others(ids[:, place:])), dim=1)
        theirs = logits(model, changed)
        if not torch.equal(ours[:, :place], theirs[:, :place]):
            first = int((ours[:, :place] != theirs[:, :place]).any(-1).any(0).nonzero()[0])
            leaks.append(f"token {first} sees token {place} or a later one")
    measured = "; ".join(leaks) or f"logits before tokens {', '.join(map(str, places))} do not change with them"
    return Outcome("failed" if leaks else "passed", measured, "equal bits", {"changed_from": places, "leaks": leaks})


def packing_isolation(subject: Subject) -> Outcome:
    """A document has the logits that it has alone, whatever stands in the sequence with it."""
    model = subject.attending
    assert model is not None
    half = subject.length(_LENGTH) // 2
    first, second = (_document(subject, half, seed) for seed in (1, 2))
    packed = logits(model, torch.cat((first, second), dim=1))
    flaws: dict[str, bool] = {}
    for name, changed in (
        ("the second", torch.cat((_changed(subject, first), second), dim=1)),
        ("the first", torch.cat((first, _changed(subject, second)), dim=1)),
    ):
        kept = slice(half, None) if name == "the second" else slice(half)
        same = torch.equal(packed[:, kept], logits(model, changed)[:, kept])
        flaws[f"{name} document changes with the other one"] = not same
    apart = max(
        far_apart(logits(model, document), packed[:, place])
        for document, place in ((first, slice(half)), (second, slice(half, None)))
    )
    flaws[f"alone a document has other logits, by {apart:.3g} of the largest"] = not is_close(apart)
    return _judged(
        flaws,
        f"two documents of {half} tokens: neither changes the other; alone they differ by {apart:.2g}",
        "equal bits with another neighbour; alone at most 0.0001 of the largest logit apart",
        {"apart": apart},
    )


def _document(subject: Subject, length: int, seed: int) -> Tensor:
    begin = torch.full((_ROWS, 1), DOCUMENT_START)
    return torch.cat((begin, subject.tokens(_ROWS, length - 1, seed=seed)), dim=1)


def _changed(subject: Subject, document: Tensor) -> Tensor:
    """The document with another text after the token that begins it."""
    return torch.cat((document[:, :1], subject.others(document[:, 1:])), dim=1)


def padding_invariance(subject: Subject) -> Outcome:
    """A text that is filled up has the logits that it has without."""
    whole = subject.length(_LENGTH)
    ids = subject.tokens(_ROWS, whole - whole // 3)
    padding = torch.full((_ROWS, whole // 3), subject.description["pad_id"])
    ours, theirs = logits(subject.model, ids), logits(subject.model, torch.cat((ids, padding), dim=1))
    apart = far_apart(ours, theirs if ours.dim() == 2 else theirs[:, : ids.shape[1]])
    measured = f"{padding.shape[1]} tokens of padding change logits by {apart:.2g} of the largest"
    return _within(apart, measured)


def batch_order_invariance(subject: Subject) -> Outcome:
    """A row has the logits that it has in any other place of a batch, and whatever the other rows are."""
    length = subject.length(_LENGTH)
    rows, others = subject.inputs(_ROWS, length), subject.inputs(_ROWS + 1, length)[1:]
    ours = logits(subject.model, rows)
    turned = far_apart(ours.flip(0), logits(subject.model, rows.flip(0)))
    beside = logits(subject.model, torch.cat((rows[:1], others[1:])))
    flaws = {
        f"rows in another order have other logits, by {turned:.3g} of the largest": not is_close(turned),
        "the first row changes with the others": not torch.equal(ours[0], beside[0]),
    }
    return _judged(
        flaws,
        f"another order changes logits by {turned:.2g}, other rows by nothing",
        "0.0001 of the largest logit; equal bits with other rows",
        {"apart": turned},
    )


def loss_mask(subject: Subject) -> Outcome:
    """Targets that do not count weigh nothing, and those that do weigh the same whatever is counted beside them."""
    *inputs, targets = random_batch(subject, _ROWS, subject.length(_LENGTH))
    odd = torch.arange(targets.numel()).reshape(targets.shape) % 2 == 1
    nothing, some, rest, every = (
        float(subject.task.loss(subject.model, *inputs, chosen).detach())
        for chosen in (
            torch.full_like(targets, IGNORED),
            torch.where(odd, targets, IGNORED),
            torch.where(odd, IGNORED, targets),
            targets,
        )
    )
    missing = abs(some + rest - every) / max(1.0, abs(every))
    flaws = {
        f"targets that do not count have a loss of {nothing:.4g} nats": nothing != 0,
        f"two halves of the targets have {missing:.2%} more or less loss than all": not is_close(missing),
        **_miscounted(subject),
    }
    details = {"nothing": nothing, "halves": some + rest, "all": every}
    measured = f"ignored targets: {nothing:g} nats; two halves {some + rest:.6g}, all {every:.6g} nats"
    return _judged(flaws, measured, "0 nats; halves and all within 0.0001; targets counted as they are", details)


def _miscounted(subject: Subject) -> dict[str, bool]:
    """Whether the batches of the training data say how many of their targets count."""
    if subject.train is None:
        return {}
    batches = subject.task.batches(subject.train, batch_size=_ROWS, seed=0)
    wrong = []
    for index in {0, batches.per_epoch - 1}:
        counted = int((batches.batch(0, index)[-1] != IGNORED).sum())
        if counted != batches.targets_in(0, index):
            wrong.append(f"batch {index} has {counted} targets and says {batches.targets_in(0, index)}")
    return {"; ".join(wrong): bool(wrong)}


def target_alignment(subject: Subject) -> Outcome:
    """Each target is compared with the logits of its own place, and those have seen the token at that place."""
    *inputs, targets = batch = random_batch(subject, _ROWS, subject.length(_LENGTH))
    found = logits(subject.model, *inputs)
    expected = float(EXAMPLES[subject.task_type].loss(found, targets))
    with torch.inference_mode():
        ours = float(subject.task.loss(subject.model, *batch))
    apart = abs(ours - expected) / max(1.0, abs(expected))
    flaws = {f"the loss is {ours:.6g} nats, that of each place and its target {expected:.6g}": not is_close(apart)}
    if subject.attending is subject.model:
        flaws["the logits of a place do not depend on the token there"] = not _sees_itself(subject)
    if subject.task_type in ("lm", "seq2seq") and subject.train is not None:
        flaws["targets of the training data are not the tokens that follow"] = not _follows(subject)
    measured = f"the loss is that of each place with its own target, {ours:.6g} nats"
    return _judged(flaws, measured, "the two within 0.0001; another token, other logits", {"loss": ours})


def _sees_itself(subject: Subject) -> bool:
    ids = subject.tokens(_ROWS, subject.length(_LENGTH))
    place = ids.shape[1] // 2
    changed = ids.clone()
    changed[:, place] = subject.others(ids[:, place])
    ours, theirs = (logits(subject.model, given)[:, place] for given in (ids, changed))
    return bool((ours != theirs).any(-1).all())


def _follows(subject: Subject) -> bool:
    assert subject.train is not None
    ids, targets = subject.task.batches(subject.train, batch_size=_ROWS, seed=0).batch(0, 0)
    following, learned = ids[:, 1:], targets[:, :-1]
    counted = (learned != IGNORED) & (targets[:, 1:] != IGNORED)  # what fills up follows the last token
    return torch.equal(following[counted], learned[counted])


def weight_tying(subject: Subject) -> Outcome:
    """The output projection is the embedding exactly where the model says so."""
    model = copy.deepcopy(subject.model)
    assert isinstance(model, Transformer | Bert)
    said = bool(subject.description["model"].get("tie_embeddings", True))
    ids = subject.tokens(1, min(4, model.max_seq_len))
    token = int(np.setdiff1d(subject.plain, ids.numpy())[0])
    before = logits(model, ids)[..., token].clone()
    with torch.no_grad():
        model.embed_tokens.weight[token] += 1
    tied = not torch.equal(before, logits(model, ids)[..., token])
    measured = f"a token's row of the embedding {'is' if tied else 'is not'} its row of the output projection"
    limit = f"tie_embeddings: {str(said).lower()}"
    return Outcome("passed" if tied == said else "failed", measured, limit, {"said": said, "tied": tied})


# What it was trained on


def leakage_audit(subject: Subject) -> Outcome:
    """What the model is judged on is not what it learned."""
    assert subject.data is not None
    assert subject.train is not None
    heldout = {name: split for name in _AUDITED if (split := subject.split(name)).documents}
    limit = f"no document; at most {_LEAKED:.0%} of the characters in passages of {PASSAGE}"
    if not heldout:
        return Outcome("not_judged", "there is no held-out split to compare with", limit)
    if isinstance(subject.model, Cnn):
        shared = {name: _shared_pictures(subject.train, split) for name, split in heldout.items()}
        details: dict[str, object] = {name: {"documents": count} for name, count in shared.items()}
        measured = ", ".join(f"{name}: {count} pictures of the training split" for name, count in shared.items())
        return Outcome("failed" if any(shared.values()) else "passed", measured, "no picture", details)
    tokenizer = Tokenizer.load(subject.data / "tokenizer.model")
    learned = list(_texts(subject.train, tokenizer))
    found = {name: audit(learned, list(_texts(split, tokenizer))) for name, split in heldout.items()}
    measured = ", ".join(
        f"{name}: {one.documents} whole documents, {one.fraction:.2%} of its characters" for name, one in found.items()
    )
    details = {name: {"documents": one.documents, "fraction": one.fraction} for name, one in found.items()}
    if any(one.documents for one in found.values()):
        return Outcome("failed", f"{measured} stand in the training split", limit, details)
    much = any(one.fraction > _LEAKED for one in found.values())
    return Outcome("warning" if much else "passed", f"{measured} stand in the training split", limit, details)


def _texts(split: EncodedSplit, tokenizer: Tokenizer) -> Iterator[Document]:
    for index in range(split.documents):
        yield Document(f"{split.name}-{index}", tokenizer.decode(split.document(index).tolist()))


def _shared_pictures(train: EncodedSplit, heldout: EncodedSplit) -> int:
    learned = {picture.tobytes() for picture in train.pictures}
    return sum(picture.tobytes() in learned for picture in heldout.pictures)


def _within(apart: float, measured: str) -> Outcome:
    limit = "at most 0.0001 of the largest logit"
    return Outcome("passed" if is_close(apart) else "failed", measured, limit, {"apart": _json(apart)})


def _judged(flaws: dict[str, bool], measured: str, limit: str, details: dict[str, float] | None = None) -> Outcome:
    """Failed with every flaw that is one, else passed with what was measured."""
    found = [flaw for flaw, wrong in flaws.items() if wrong]
    figures = {name: _json(value) for name, value in (details or {}).items()}
    return Outcome("failed" if found else "passed", "; ".join(found) or measured, limit, figures)


def _json(value: float) -> float | None:
    return value if np.isfinite(value) else None
