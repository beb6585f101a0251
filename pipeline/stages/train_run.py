"""The work of the train stage: find the run's checkpoint, run the loop, write the model folder."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from pipeline import console, ranks
from pipeline.errors import FoundryError
from pipeline.files import canonical_json, sha256_bytes, sha256_file, verify_manifest
from pipeline.paths import OUTPUT_OF, work_dir
from pipeline.spec import Spec, stage_values
from pipeline.spec.saves import schedule_of
from pipeline.stages import CODE_OF
from pipeline.stages.door import start_folder
from pipeline.stages.launch import arrangement_of
from pipeline.stages.trackers import Run, require_trackers, tracking
from pipeline.stages.train_ledger import open_ledger, settling
from pipeline.stages.train_loop import metadata_of, optimizer_of, run_loop
from pipeline.stages.train_memory import estimate_of_shortage
from pipeline.stages.train_record import Follower, Record, last_step
from pipeline.stages.train_result import now, training_metrics, write_model
from pipeline.stages.train_setup import Setup, inputs_of, set_up
from pipeline.stages.train_signals import listen_for_signals
from pipeline.training.averaging import mean_weights
from pipeline.training.checkpoint import Checkpoint, newest_checkpoint
from pipeline.training.distributed import agreed, join
from pipeline.training.earlier import why_afresh
from pipeline.training.exact import require_same_execution, require_same_processes
from pipeline.training.hardware import memory_mb
from pipeline.training.precision import in_float32
from pipeline.training.run_folder import LOCK, checkpoints_in, locked, prune
from pipeline.training.saver import Saver
from pipeline.training.warm_start import Start, read_start, remembered_starts

_SOURCE = Path(__file__).resolve().parents[2]


def build(spec: Spec, *, keep_run: bool = False, exact: bool = False) -> None:
    """Make `artifacts/model/`, `reports/training_metrics.json` and `reports/history.csv`.

    Args:
        spec: the experiment.
        keep_run: leave the run folder with its checkpoints, and one of the last step, where it is. Without it only
            a run with scheduled checkpoints leaves its folder, with these and the last one.
        exact: do not go on with a run whose last bits this process would not reproduce; else it only warns.
    """
    started = time.monotonic()
    require_trackers(spec)
    arrangement = arrangement_of(spec)
    if not ranks.has_stage_above():
        for warning in arrangement.warnings:
            console.warn(warning)
    source = OUTPUT_OF["tokenizer"]
    verify_manifest(source, rebuild="foundry run --from tokenizer --force")
    start = find_start(spec, source)
    mark = fingerprint(spec, inputs=inputs_of(source, start))
    run_folder = work_dir() / "runs" / _name(mark)
    world = join(arrangement, strategy=spec.hardware.strategy, seed=spec.reproducibility.random_seed)
    stop = listen_for_signals(world)
    with locked(run_folder) if world.is_first else nullcontext():
        world.from_first(lambda: None)  # the others wait for the lock, too
        checkpoint, problems = newest_checkpoint(run_folder)
        agreed(world, checkpoint and checkpoint.step, "checkpoints")
        for problem in problems:
            console.warn(problem)
        if checkpoint is None and (reason := why_afresh(spec, run_folder, start)):
            console.say(reason)
        shares = arrangement.shares or (checkpoint.state["world"]["devices"] if checkpoint else world.size)
        setup = set_up(spec, source, checkpoint, start, world=world, shares=shares)
        if checkpoint is not None and exact:
            require_same_execution(setup.execution, checkpoint.state["execution"])
            require_same_processes(world.size, checkpoint.state["world"])
        with estimate_of_shortage(spec, setup):
            scheduled = _train(
                spec, setup, source, run_folder, checkpoint, stop=stop, mark=mark, started=started, keep_run=keep_run
            )
        world.leave()
        if keep_run or not world.is_first:
            return
        if scheduled:
            prune(run_folder, keep={*scheduled, max(checkpoints_in(run_folder))})
            return
        for path in run_folder.iterdir():  # not the lock, which is still held
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(run_folder, ignore_errors=True)


def find_start(spec: Spec, source: Path) -> Start | None:
    """What a run of a spec begins with; None: random weights.

    If the folder has gone since the run was interrupted, its checkpoints know what it began with.

    Args:
        spec: the experiment.
        source: the output folder of its tokenizer stage.

    Raises:
        TrainingError: the folder is missing or damaged.
    """
    said = spec.training.resume_from_checkpoint
    if said is None:
        return None
    path = start_folder(said)
    if not Path(path).exists():
        for name, start in remembered_starts(work_dir() / "runs", path):
            if name == _name(fingerprint(spec, inputs=inputs_of(source, start))):
                return start
    return read_start(path)


def _name(mark: str) -> str:
    """The run folder of a fingerprint."""
    return mark[:16]  # 64 bits: plenty to tell the runs of one machine apart


def fingerprint(spec: Spec, *, inputs: dict[str, str]) -> str:
    """What a checkpoint is bound to: the settings that shape the weights, the data, and the code that trains."""
    settings = stage_values(spec, "train", effects=("result",))
    return sha256_bytes(canonical_json({"settings": settings, "inputs": inputs, "code": code_of_training()}).encode())


def code_of_training() -> dict[str, str]:
    """Each file of the code that shapes the result of training → its SHA-256."""
    paths = [_SOURCE / name for name in CODE_OF["train"]]
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*.py")))]
    return {file.relative_to(_SOURCE).as_posix(): sha256_file(file) for file in files}


def _train(
    spec: Spec,
    setup: Setup,
    encoded: Path,
    run_folder: Path,
    checkpoint: Checkpoint | None,
    *,
    stop: Callable[[], FoundryError | None],
    mark: str,
    started: float,
    keep_run: bool,
) -> tuple[int, ...]:
    """Train and write what comes of it; returns the scheduled steps."""
    world = setup.world
    optimizer = optimizer_of(spec, setup)
    judged = mean_weights(setup.model, optimizer)  # around each function that looks at what the model is worth
    _announce(spec, setup, checkpoint)
    identity = (
        {key: checkpoint.state[key] for key in ("run_id", "start_timestamp")}
        if checkpoint
        else {"run_id": str(uuid.uuid4()), "start_timestamp": now()}
    )
    steps_per_epoch = -(-setup.batches.per_epoch // spec.training.gradient_accumulation_steps)
    saving = spec.section("checkpointing")
    scheduled = schedule_of(saving, total=setup.total_steps, per_epoch=steps_per_epoch)
    quiet = spec.logging.console_level != "info"
    resumed_step = checkpoint.step if checkpoint else 0
    recorded = run_folder / "record.jsonl"
    run = Run(
        spec=spec,
        run_id=identity["run_id"],
        folder=work_dir() / "tracking",
        resumed_step=resumed_step,
        tracked_step=last_step(recorded) if checkpoint else 0,
    )
    witness, ledger = open_ledger(
        run_folder, setup, checkpoint, inputs=inputs_of(encoded, setup.start), code=code_of_training()
    )
    first = world.is_first
    with tracking(run if first else None) as trackers, console.progress("train", setup.total_steps, "steps") as shown:
        shown.start_at(resumed_step)
        sample = judged(partial(_sample, spec, setup))
        record = (
            Record(
                recorded,
                resumed_step=resumed_step,
                log_every_n_steps=spec.logging.log_every_n_steps,
                sample=sample,
                memory=partial(memory_mb, setup.execution.device),
                trackers=trackers,
                shown=None if quiet else shown,
            )
            if first
            else None
        )
        emit = record or Follower(sample)
        saver = Saver(
            run_folder=run_folder,
            model=setup.model,
            optimizer=optimizer,
            total_steps=setup.total_steps,
            **{name: saving[f"save_{name}"] for name in ("every_n_steps", "every_n_epochs", "every_n_minutes")},
            scheduled=scheduled,
            **{name: saving[name] for name in ("keep_last_n", "keep_best_k", "monitor", "mode")},
            last=keep_run or bool(scheduled),
            state={
                **identity,
                "fingerprint": mark,
                "spec": spec.to_dict(),
                "execution": setup.execution.to_dict(),
                "world": setup.describe_world(),
                **setup.describe_start(),
            },
            metadata={
                "run_id": identity["run_id"],
                **metadata_of(spec, setup, encoded, steps_per_epoch=steps_per_epoch),
            },
            emit=emit,
            world=world,
            settle=settling(ledger),
        )
        result = run_loop(
            spec,
            setup,
            optimizer,
            evaluate=judged(setup.evaluate) if setup.held_out.documents else None,
            eval_every_n_steps=spec.training.eval_every_n_steps,
            saver=saver,
            checkpoint=checkpoint,
            emit=emit,
            stop=stop,
            started=started,
            witness=witness,
        )
    with mean_weights(setup.model, optimizer):
        model = world.whole(setup.model)
        if record is not None and ledger is not None:
            record.close()
            metrics = training_metrics(spec, setup, result, identity=identity, record=record)
            write_model(
                spec, setup, result, model=model, encoded=encoded, metrics=metrics, record=record, ledger=ledger
            )
    return scheduled


def _announce(spec: Spec, setup: Setup, checkpoint: Checkpoint | None) -> None:
    execution = setup.execution
    parameters = sum(parameter.numel() for parameter in setup.model.parameters())
    how = f"{execution.precision}, {'compiled' if execution.compile_mode else 'eager'}"
    if setup.world.size > 1:
        how += f", {setup.world.strategy}"
    console.say(
        f"training {spec.model.model_name}: {parameters:,} parameters, {setup.batches.targets_per_epoch:,} targets an "
        f"epoch, {setup.total_steps:,} steps on {execution.device} with {_workers(setup)} ({how})"
    )
    if checkpoint is None:
        if setup.start is not None:
            console.say(f"starting from the weights in {setup.start.path} (SHA-256 {setup.start.sha256[:16]}…)")
        return
    console.say(f"resuming after step {checkpoint.step} of {setup.total_steps}")
    for difference in execution.differences(checkpoint.state["execution"]):
        console.warn(f"this process executes differently, so the last bits of the weights can differ: {difference}")
    before, now_ = checkpoint.state["world"]["processes"], setup.world.size
    if before != now_:
        console.warn(f"{now_} processes go on with what {before} began: the same batches, but other last bits")


def _workers(setup: Setup) -> str:
    threads = f"{setup.execution.num_threads} threads"
    return threads if setup.world.size == 1 else f"{setup.world.size} processes of {threads}"


def _sample(spec: Spec, setup: Setup) -> list[dict[str, str]]:
    """What the model makes of the spec's prompts, from a generator of its own. All ranks call this together."""
    model = setup.world.whole(setup.model)
    if not setup.world.is_first:
        return []
    model.eval()
    samples = setup.task.samples(
        in_float32(model),
        spec.logging.sample_prompts,
        max_new_tokens=spec.logging.sample_max_new_tokens,
        temperature=spec.logging.sample_temperature,
        seed=spec.reproducibility.random_seed,
    )
    model.train()
    return [{"prompt": sample.prompt, "text": sample.text} for sample in samples]
