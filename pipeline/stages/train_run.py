"""The work of the train stage: build everything from the spec, run the loop, write the model folder."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import __version__, console
from pipeline.data.batches import Batches, read_tokens
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import FoundryError, Interrupted, Preempted, TrainingError
from pipeline.files import (
    canonical_json,
    manifest_hash,
    output_folder,
    read_artefact,
    sha256_bytes,
    sha256_file,
    verify_manifest,
    write_artefact,
)
from pipeline.models.generate import generate
from pipeline.models.store import BEST, FINAL, save_model
from pipeline.models.transformer import Transformer
from pipeline.paths import OUTPUT_OF, REPORTS, work_dir
from pipeline.spec import Spec, stage_values
from pipeline.stages import CODE_OF
from pipeline.stages.train_record import Record
from pipeline.tasks.language_model import bits_per_byte, loss_sum, score
from pipeline.training import hardware
from pipeline.training.checkpoint import Checkpoint, locked, newest_checkpoint
from pipeline.training.earlier import why_afresh
from pipeline.training.hardware import Execution, choose_execution
from pipeline.training.loop import Result, planned_steps, train
from pipeline.training.optimizer import adamw, learning_rate_at, warmup_length

_SOURCE = Path(__file__).resolve().parents[2]


def build(spec: Spec, *, keep_run: bool = False) -> None:
    """Make `artifacts/model/`, `reports/training_metrics.json` and `reports/history.csv`.

    Args:
        spec: the experiment.
        keep_run: leave the run folder with its checkpoints, and one of the last step, where it is.
    """
    started = time.monotonic()
    source = OUTPUT_OF["tokenizer"]
    verify_manifest(source, rebuild="foundry run --from tokenizer --force")
    mark = fingerprint(spec, inputs={"tokenizer": manifest_hash(source)})
    run_folder = work_dir() / "runs" / mark[:16]  # 64 bits: plenty to tell the runs of one machine apart
    stop = _listen_for_signals()
    with locked(run_folder):
        checkpoint, problems = newest_checkpoint(run_folder)
        for problem in problems:
            console.warn(problem)
        if checkpoint is None and (reason := why_afresh(spec, run_folder)):
            console.say(reason)
        _train(spec, source, run_folder, checkpoint, stop=stop, mark=mark, started=started, save_last=keep_run)
        if keep_run:
            return
        for path in run_folder.iterdir():  # not the lock, which is still held
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(run_folder, ignore_errors=True)


def fingerprint(spec: Spec, *, inputs: dict[str, str]) -> str:
    """What a checkpoint is bound to: the settings that shape the weights, the data, and the code that trains."""
    paths = [_SOURCE / name for name in CODE_OF["train"]]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    code = {file.relative_to(_SOURCE).as_posix(): sha256_file(file) for file in files}
    settings = stage_values(spec, "train", effects=("result",))
    return sha256_bytes(canonical_json({"settings": settings, "inputs": inputs, "code": code}).encode())


def _train(
    spec: Spec,
    source: Path,
    run_folder: Path,
    checkpoint: Checkpoint | None,
    *,
    stop: Callable[[], FoundryError | None],
    mark: str,
    started: float,
    save_last: bool,
) -> None:
    facts = read_artefact(source / "tokenizer.json", "tokenizer")
    tokenizer = Tokenizer.load(source / "tokenizer.model")
    training, reproducibility = spec.training, spec.reproducibility
    seed = reproducibility.random_seed
    if reproducibility.deterministic:
        hardware.make_deterministic()
    hardware.keep_freed_memory()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - whatever a library draws from it should be the same again
    torch.manual_seed(seed)

    shape = {key: value for key, value in spec.section("model").items() if key != "model_name"}
    shape["vocab_size"] = facts["vocab_size"]
    model = Transformer(**shape)
    tokens = read_tokens(source / "train.bin", facts["dtype"])
    held_out = read_tokens(source / "validation.bin", facts["dtype"])
    batches = Batches(tokens, length=spec.model.max_seq_len, batch_size=training.batch_size, seed=seed)
    accumulation = training.gradient_accumulation_steps
    total_steps = planned_steps(
        batches_per_epoch=batches.per_epoch,
        accumulation=accumulation,
        epochs=training.epochs,
        max_steps=training.max_steps,
    )
    tokens_per_step = training.batch_size * accumulation * spec.model.max_seq_len
    flops = model.flops_per_token() * tokens_per_step * total_steps
    execution = choose_execution(
        device=spec.hardware.device,
        precision=spec.hardware.precision,
        use_amp=spec.hardware.use_amp,
        compile_mode=spec.hardware.compile_mode,
        num_threads=spec.hardware.num_threads,
        flops=flops,
        earlier=checkpoint.state["execution"] if checkpoint else None,
    )
    if spec.hardware.compile_mode == "auto" and hardware.worth_compiling(flops) and not hardware.has_compiler():
        console.warn("without a C++ compiler the model is not compiled and trains slower: install g++")
    model.to(execution.device).train()
    batch_loss, execution = _prepare_loss(
        model,
        execution,
        batches,
        fullgraph=spec.hardware.compile_fullgraph,
        dynamic=spec.hardware.compile_dynamic,
        insist=spec.hardware.compile_mode not in ("auto", None),
    )
    _announce(spec, model, execution, batches, total=total_steps, checkpoint=checkpoint)

    optimizer = adamw(
        model,
        learning_rate=training.learning_rate,
        beta1=spec.optimizer.adam_beta1,
        beta2=spec.optimizer.adam_beta2,
        epsilon=spec.optimizer.adam_epsilon,
        weight_decay=spec.optimizer.weight_decay,
    )
    rate = partial(
        learning_rate_at,
        total_steps=total_steps,
        peak=training.learning_rate,
        schedule=spec.scheduler.scheduler_type,
        warmup_steps=warmup_length(
            total_steps=total_steps,
            warmup_ratio=spec.scheduler.warmup_ratio,
            warmup_steps=spec.scheduler.warmup_steps,
        ),
        min_lr_ratio=spec.scheduler.min_lr_ratio,
        decay_ratio=spec.scheduler.decay_ratio,
    )
    identity = (
        {key: checkpoint.state[key] for key in ("run_id", "start_timestamp")}
        if checkpoint
        else {"run_id": str(uuid.uuid4()), "start_timestamp": _now()}
    )
    quiet = spec.logging.console_level != "info"
    with console.progress("train", total_steps, "steps") as shown:
        shown.start_at(checkpoint.step if checkpoint else 0)
        record = Record(
            run_folder / "record.jsonl",
            resumed_step=checkpoint.step if checkpoint else 0,
            log_every_n_steps=spec.logging.log_every_n_steps,
            sample=partial(_sample, model, tokenizer, spec),
            shown=None if quiet else shown,
        )
        result = train(
            model=model,
            optimizer=optimizer,
            batches=batches,
            loss_sum=batch_loss,
            learning_rate=rate,
            evaluate=partial(_evaluate, model, held_out, spec.model.max_seq_len) if len(held_out) > 1 else None,
            run_folder=run_folder,
            checkpoint=checkpoint,
            total_steps=total_steps,
            accumulation=accumulation,
            max_grad_norm=training.max_grad_norm,
            on_nonfinite=training.on_nonfinite,
            eval_every_n_steps=training.eval_every_n_steps,
            patience=training.early_stopping_patience,
            min_delta=training.early_stopping_min_delta,
            save_every_n_steps=spec.checkpointing.save_every_n_steps,
            save_every_n_epochs=spec.checkpointing.save_every_n_epochs,
            keep_last_n=spec.checkpointing.keep_last_n,
            save_last=save_last,
            extra_state={
                **identity,
                "fingerprint": mark,
                "spec": spec.to_dict(),
                "execution": execution.to_dict(),
            },
            emit=record,
            stop=stop,
            started=started,
        )
        record.close()
    metrics = _metrics(
        spec, identity=identity, result=result, model=model, execution=execution, facts=facts, record=record
    )
    _write(spec, source=source, model=model, result=result, shape=shape, facts=facts, metrics=metrics, record=record)


def _prepare_loss(
    model: Transformer, execution: Execution, batches: Batches, *, fullgraph: bool, dynamic: bool, insist: bool
) -> tuple[Callable[[Tensor, Tensor], Tensor], Execution]:
    """The loss of a batch at the run's precision, compiled if the run compiles and the machine can."""
    mixed = execution.precision == "bf16-mixed"

    def plain(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(execution.device, torch.bfloat16, enabled=mixed):
            return loss_sum(model, ids, targets)

    if execution.compile_mode is None:
        return plain, execution
    console.say(f"compiling the model ({execution.compile_mode}); kernels are kept for later runs")
    began = time.monotonic()
    compiled = torch.compile(plain, mode=execution.compile_mode, fullgraph=fullgraph, dynamic=dynamic)
    try:
        with torch.random.fork_rng():  # a trial must leave no trace in the run
            trial = compiled(*(tensor.to(execution.device) for tensor in batches.batch(0, 0)))
            trial.backward()  # type: ignore[no-untyped-call]
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:  # noqa: SLF001
        reason = str(error).strip().splitlines()[0]
        if insist:
            hint = "install what it asks for, or set hardware.compile_mode to auto or null"
            raise TrainingError(f"torch.compile does not work here: {reason}", hint=hint) from error
        console.warn(f"torch.compile does not work here, training runs eager and slower: {reason}")
        model.zero_grad(set_to_none=True)
        return plain, replace(execution, compile_mode=None)
    model.zero_grad(set_to_none=True)
    console.say(f"compiled in {console.duration(time.monotonic() - began)}")
    return compiled, execution


def _announce(
    spec: Spec, model: Transformer, execution: Execution, batches: Batches, *, total: int, checkpoint: Checkpoint | None
) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    how = f"{execution.precision}, {'compiled' if execution.compile_mode else 'eager'}"
    console.say(
        f"training {spec.model.model_name}: {parameters:,} parameters, {batches.targets_per_epoch:,} tokens an epoch, "
        f"{total:,} steps on {execution.device} with {execution.num_threads} threads ({how})"
    )
    if checkpoint is None:
        return
    console.say(f"resuming after step {checkpoint.step} of {total}")
    for difference in execution.differences(checkpoint.state["execution"]):
        console.warn(f"this process executes differently, so the last bits of the weights can differ: {difference}")


def _evaluate(model: Transformer, tokens: Any, max_seq_len: int) -> float:
    """The held-out loss in nats per token, in float32 whatever the training precision."""
    model.eval()
    nats, scored = score(model, tokens, max_seq_len=max_seq_len)
    model.train()
    return nats / scored


def _sample(model: Transformer, tokenizer: Tokenizer, spec: Spec) -> list[dict[str, str]]:
    """What the model makes of the spec's prompts, from a generator of its own."""
    model.eval()
    samples = []
    for prompt in spec.logging.sample_prompts:
        ids = generate(
            model,
            [tokenizer.bos_id, *tokenizer.encode(prompt)],
            max_new_tokens=spec.logging.sample_max_new_tokens,
            temperature=spec.logging.sample_temperature,
            seed=spec.reproducibility.random_seed,
            stop_ids=(tokenizer.eos_id,),
        )
        samples.append({"prompt": prompt, "text": tokenizer.decode(list(ids))})
    model.train()
    return samples


def _metrics(
    spec: Spec,
    *,
    identity: dict[str, str],
    result: Result,
    model: Transformer,
    execution: Execution,
    facts: dict[str, Any],
    record: Record,
) -> dict[str, Any]:
    progress = result.progress
    held_out = facts["splits"]["validation"]
    best = progress.best_val_loss
    nats = None if best is None else best * (held_out["tokens"] - 1)
    return {
        "format_version": 1,
        "toolkit_version": __version__,
        **identity,
        "end_timestamp": _now(),
        "experiment": spec.name,
        "spec_hash": spec.hash(),
        "configuration": spec.to_dict(),
        "execution": execution.to_dict(),
        "final_metrics": {
            "best_val_loss": best,
            "best_step": progress.best_step,
            "final_train_loss": progress.epoch_history[-1]["train_loss"],
            "final_val_loss": progress.last_val_loss,
            "bits_per_byte": None if nats is None else bits_per_byte(nats, held_out["bytes"]),
            "total_epochs": len(progress.epoch_history),
            "total_steps": progress.step,
            "total_tokens": progress.tokens,
            "stopped_early": progress.stopped_early,
            "skipped_steps": progress.skipped_steps,
            "rollbacks": progress.rollbacks,
            "vanishing_steps": progress.vanishing_steps,
            "exploding_steps": progress.exploding_steps,
            "micro_batch_rows": progress.micro_batch_rows,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "tokens_per_second": round(progress.tokens / progress.step_seconds, 1),
            "training_seconds": round(progress.seconds, 1),
            "peak_rss_mb": round(_peak_rss_bytes() / 1e6, 1),
        },
        "epoch_history": progress.epoch_history,
        "samples": record.samples(),
    }


def _write(
    spec: Spec,
    *,
    source: Path,
    model: Transformer,
    result: Result,
    shape: dict[str, Any],
    facts: dict[str, Any],
    metrics: dict[str, Any],
    record: Record,
) -> None:
    final = metrics["final_metrics"]
    description = {
        "model_name": spec.model.model_name,
        "model": shape,
        **{key: facts[key] for key in ("bos_id", "eos_id", "pad_id")},
        "training": {
            "run_id": metrics["run_id"],
            "seconds": final["training_seconds"],
            "steps": final["total_steps"],
            "tokens": final["total_tokens"],
            "best_step": final["best_step"],
            "val_loss": final["best_val_loss"],
            **metrics["execution"],
        },
    }
    sections = stage_values(spec, "train", effects=("result", "output"))
    with output_folder(
        OUTPUT_OF["train"],
        stage="train",
        sections=sections,
        inputs={"tokenizer": manifest_hash(source)},
        spec_hash=spec.hash(),
    ) as folder:
        save_model(folder, model, description, weights=FINAL)
        shutil.copyfile(result.best_weights or folder / FINAL, folder / BEST)
        if spec.checkpointing.keep_best_only:
            (folder / FINAL).unlink()
        write_artefact(folder / "spec.json", "spec", spec.to_dict())
        for name in ("tokenizer.model", "tokenizer.json"):
            shutil.copyfile(source / name, folder / name)
    write_artefact(REPORTS / "training_metrics.json", "training_metrics", metrics)
    write_artefact(REPORTS / "history.csv", "history", record.history())
    seconds = console.duration(final["training_seconds"])
    best = "" if final["best_val_loss"] is None else f"best validation loss {final['best_val_loss']:.4f}, "
    console.say(f"trained in {seconds}: {best}{final['tokens_per_second']:,.0f} tokens/s")


def _listen_for_signals() -> Callable[[], FoundryError | None]:
    """From now on SIGTERM and Ctrl-C only leave a note, which the returned function reads."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if not received:
            os.write(2, b"\nstopping after this step, with a checkpoint ...\n")  # print may be at work right now
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)

    def asked() -> FoundryError | None:
        if not received:
            return None
        hint = "run the same command again: it goes on from the checkpoint"
        if received[0] == signal.SIGINT:
            return Interrupted("training was stopped by Ctrl-C and its state is saved", hint=hint)
        return Preempted("training was stopped by SIGTERM and its state is saved", hint=hint)

    return asked


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
