"""The table of checks, tier by tier: a row and a function each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipeline.models.bert import Bert
from pipeline.models.transformer import Transformer
from pipeline.tiers import analysis, exports, isolation, short_fit, soundness
from pipeline.tiers.subject import Outcome, Subject

TIERS = {1: "soundness", 2: "analysis", 3: "a short fit", 4: "exports"}
_SOUND = ("parameter_initialization", "shape_robustness")
_REPEATABLE = (*_SOUND, "determinism")


def _nothing(_subject: Subject) -> str:
    return ""


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        name: of the check.
        tier: a key of `TIERS`.
        group: what it is about; a fault of a model shows in one group.
        run: the function.
        why: why it matters.
        advice: what to do where it does not pass.
        after: checks that this one builds on: where one of them failed, this one says nothing.
        unfit: why there is nothing to judge about a subject; empty where there is.
    """

    name: str
    tier: int
    group: str
    run: Callable[[Subject], Outcome]
    why: str
    advice: str
    after: tuple[str, ...] = _SOUND
    unfit: Callable[[Subject], str] = _nothing


def _without_causes(subject: Subject) -> str:
    return "" if isinstance(subject.attending, Transformer) else f"a {_kind(subject)} is not read from left to right"


def _without_packing(subject: Subject) -> str:
    model = subject.attending
    if model is None or model is not subject.model:
        return f"each input of a {_kind(subject)} is one document"
    return "" if model.separate_documents else "model.separate_documents is false: documents see those before them"


def _without_tokens(subject: Subject) -> str:
    return "" if subject.attending is not None else f"a {_kind(subject)} takes no tokens"


def _without_projection(subject: Subject) -> str:
    return "" if isinstance(subject.model, Transformer | Bert) else f"a {_kind(subject)} has no output projection"


def _without_data(subject: Subject) -> str:
    return "" if subject.data is not None else "the data that the model was trained on is not at hand (--data)"


def _without_exports(subject: Subject) -> str:
    return "" if subject.exports is not None else "there is no export of this model: foundry run --from export"


def _kind(subject: Subject) -> str:
    return f"model for {subject.task_type}"


CHECKS: tuple[Check, ...] = (
    Check(
        "parameter_initialization", 1, "weights", soundness.parameter_initialization,
        why="one NaN or one dead matrix makes every answer wrong",
        advice="train again with a lower learning rate, or look at model.init_std",
        after=(),
    ),
    Check(
        "shape_robustness", 1, "shapes", soundness.shape_robustness,
        why="who uses the model chooses how many inputs it gets, and how long they are",
        advice="look at forward and logits_shape of the model's class for the shapes that are named",
        after=("parameter_initialization",),
    ),
    Check(
        "determinism", 1, "determinism", isolation.determinism,
        why="a model that answers differently each time cannot be compared with anything, its exports included",
        advice="put every layer into evaluation mode: dropout belongs to training",
    ),
    Check(
        "gradient_flow", 1, "gradients", soundness.gradient_flow,
        why="a parameter without a gradient of a sensible size does not learn",
        advice="look for a detached or unused layer; of sizes, at model.init_std and model.qk_norm",
    ),
    Check(
        "output_stability", 1, "outputs", soundness.output_stability,
        why="logits that are all alike say nothing, and wild ones overflow in fewer bits",
        advice="train with a lower learning rate, or with model.qk_norm",
    ),
    Check(
        "memory_footprint", 1, "cost", soundness.memory_footprint,
        why="memory that grows faster than the batch means that rows meet, or that something is kept",
        advice="look for a product between rows of a batch, or a cache that outlives a pass",
    ),
    Check(
        "inference_speed", 1, "cost", soundness.inference_speed,
        why="it is what an answer costs on this machine",
        advice="make the model smaller (model.num_layers, model.d_model), or serve an export",
    ),
    Check(
        "causal_isolation", 1, "isolation", isolation.causal_isolation,
        why="a model that sees the token it predicts learns to copy it, and writes nonsense alone",
        advice="mend the attention mask: a token sees itself and those before it",
        after=_REPEATABLE, unfit=_without_causes,
    ),
    Check(
        "packing_isolation", 1, "isolation", isolation.packing_isolation,
        why="documents share a sequence by chance, and what one says must not depend on its neighbour",
        advice="mend the mask between documents, and let positions count from the first token of each",
        after=_REPEATABLE, unfit=_without_packing,
    ),
    Check(
        "padding_invariance", 1, "isolation", isolation.padding_invariance,
        why="how far a text is filled up depends on the texts beside it, not on what it says",
        advice="mask out padding wherever tokens meet: in attention and in pooling",
        after=_REPEATABLE, unfit=_without_tokens,
    ),
    Check(
        "batch_order_invariance", 1, "isolation", isolation.batch_order_invariance,
        why="an answer must not depend on who else asks",
        advice="look for figures over the batch, such as those of BatchNorm in training mode",
        after=_REPEATABLE,
    ),
    Check(
        "loss_mask", 1, "loss", isolation.loss_mask,
        why="padding and prompts that count are learned from, and weigh on every figure",
        advice="let the loss leave out targets of -100, and count the others",
        after=_REPEATABLE,
    ),
    Check(
        "target_alignment", 1, "loss", isolation.target_alignment,
        why="a shift by one place more or less trains a model to copy, or to guess too far ahead",
        advice="shift once: the target of a place is the token after it, and its logits have seen the place itself",
        after=_REPEATABLE,
    ),
    Check(
        "weight_tying", 1, "weights", isolation.weight_tying,
        why="a copy in place of one matrix is trained, counted and exported as two",
        advice="use the embedding itself as output projection, or set model.tie_embeddings to false",
        after=_REPEATABLE, unfit=_without_projection,
    ),
    Check(
        "leakage_audit", 1, "data", isolation.leakage_audit,
        why="a model is not judged by what it has learned by heart",
        advice="split by document, drop duplicates (dataset.cleaning), and build the corpus again",
        after=(), unfit=_without_data,
    ),
    Check(
        "attention_patterns", 2, "attention", analysis.attention_patterns,
        why="a dead head costs time and adds nothing; a collapsed layer does what one lookup does",
        advice="train longer or with model.qk_norm; or take fewer heads (model.num_heads)",
        after=_REPEATABLE, unfit=_without_tokens,
    ),
    Check(
        "attribution", 2, "attribution", analysis.attribution,
        why="attributions that do not add up to the answer do not explain it",
        advice="take more points: attribution.steps",
        after=_REPEATABLE,
    ),
    Check(
        "robustness", 2, "robustness", analysis.robustness,
        why="answers that a little noise changes hang on details of the embeddings",
        advice="train with model.dropout, or on more data",
        after=_REPEATABLE,
    ),
    Check(
        "tiny_task", 3, "learning", short_fit.tiny_task,
        why="a model that cannot learn a rule of a few symbols will not learn a language",
        advice="look at the checks of tier 1 first: gradients, masks and the shift of targets",
    ),
    Check(
        "one_batch", 3, "learning", short_fit.one_batch,
        why="a model that cannot learn one batch by heart has a fault, or is too small for anything",
        advice="look at the checks of tier 1 first; then make the model larger, or raise short_fit.max_steps",
    ),
    Check(
        "exports", 4, "exports", exports.exports,
        why="what is served is an export: it must be the model that was judged",
        advice="build it again with: foundry run --from export --force; foundry health says more about each format",
        after=(), unfit=_without_exports,
    ),
)  # fmt: skip


def checks_of(tiers: Collection[int]) -> list[Check]:
    """The checks of some tiers, and those that they build on, in the order of the table."""
    chosen = [check for check in CHECKS if check.tier in tiers]
    needed = {name for check in chosen for name in check.after}
    return [check for check in CHECKS if check in chosen or check.name in needed]
