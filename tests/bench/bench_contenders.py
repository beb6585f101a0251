"""Everything that trains the same model on the same tokens, in one table. Each runs in a process of its own."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_process import Clock


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Attributes:
        title: as the report shows it.
        work: what its process runs, see `bench_process.Child`.
        settings: added to those that all share; `compile` says whether, and `precision` at which it must run.
        needs: the package without which it cannot run, under its import name.
    """

    title: str
    work: str
    settings: dict[str, Any] = field(default_factory=dict)
    needs: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it runs as a stage does; a peer runs as it would by itself."""
        return self.work == "bench_contenders:foundry"


BF16, FP32 = "bf16-mixed", "32-true"
OURS = "foundry"  # runs first: the peers without a precision of their own take the one that it chose
CONTENDERS = {
    OURS: Contender("Model Foundry, as the train stage runs it", "bench_contenders:foundry", {"compile": "auto"}),
    "foundry-eager": Contender("Model Foundry, not compiled", "bench_contenders:foundry", {"compile": None}),
    "plain-bf16": Contender("plain loop", "bench_plain:train", {"compile": False, "precision": BF16}),
    "plain-fp32": Contender("plain loop", "bench_plain:train", {"compile": False, "precision": FP32}),
    "plain-compiled": Contender("plain loop with torch.compile", "bench_plain:train", {"compile": True}),
    "fabric": Contender("Lightning Fabric, plain model", "bench_contenders:fabric", needs="lightning"),
    "trainer": Contender("Hugging Face Trainer, its Llama", "bench_contenders:trainer", needs="transformers"),
    "litgpt": Contender("Lightning Fabric, LitGPT's model", "bench_contenders:litgpt", needs="litgpt"),
}


def prepare_ours(settings: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Model, batches, loss and execution as the train stage makes them."""
    from pipeline.data.batches import Batches
    from pipeline.data.encoded import map_array
    from pipeline.models.transformer import Transformer
    from pipeline.stages.train_setup import prepare_loss
    from pipeline.tasks.language_model import loss_sum
    from pipeline.training import hardware

    if settings["deterministic"]:
        hardware.make_deterministic()
    hardware.keep_freed_memory()
    torch.manual_seed(0)
    model = Transformer(**settings["model"]).train()
    tokens = map_array(Path(settings["tokens"]), settings["dtype"])
    length = settings["model"]["max_seq_len"]
    batches = Batches(tokens, length=length, batch_size=settings["batch_size"], seed=0)
    execution = hardware.choose_execution(
        device=settings["device"],
        precision="auto",
        use_amp=None,
        compile_mode=settings["compile"],
        num_threads=settings["threads"],
        flops=model.flops_per_token() * settings["run_tokens"],
    )
    if execution.device == "cuda":
        hardware.multiply_in_tf32(allowed=settings["tf32"])
    model.to(execution.device)
    loss, execution = prepare_loss(
        partial(loss_sum, model), model, execution, batches.batch(0, 0), fullgraph=False, dynamic=False, insist=False
    )
    return model, batches, loss, execution


def run_identity(execution: dict[str, Any]) -> dict[str, Any]:
    """What the train stage adds to the state of every checkpoint."""
    return {
        "run_id": "00000000-0000-4000-8000-000000000000",
        "start_timestamp": "2026-01-01T00:00:00+00:00",
        "fingerprint": 64 * "0",
        "execution": execution,
    }


def run_metadata() -> dict[str, Any]:
    """What the train stage adds to the metadata of every checkpoint."""
    return {
        "experiment": "bench",
        "run_id": "00000000-0000-4000-8000-000000000000",
        "spec_hash": 64 * "0",
        "tokenizer": None,
        "git": None,
        "parameters": 1,
        "tokens_per_step": 1,
        "effective_batch": 1,
    }


def foundry(settings: dict[str, Any], clock: Clock) -> None:
    """Our own loop, without evaluation and checkpoints."""
    from pipeline.errors import Interrupted
    from pipeline.training.loop import train
    from pipeline.training.optimizer import adamw
    from pipeline.training.saver import Saver

    model, batches, loss, execution = prepare_ours(settings)
    clock.describe(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        precision=execution.precision,
        compiled=execution.compile_mode is not None,
        flops_per_token=model.flops_per_token(),
    )
    done = 0

    def stop() -> Interrupted | None:
        nonlocal done
        tokens = batches.targets_in(*divmod(done, batches.per_epoch))
        done += 1
        return Interrupted("measured") if clock(tokens) else None

    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder, suppress(Interrupted):
        optimizer = adamw(model, **settings["optimizer"])
        train(
            model=model,
            optimizer=optimizer,
            batches=batches,
            loss_sum=loss,
            learning_rate=lambda _step: settings["optimizer"]["learning_rate"],
            evaluate=None,
            saver=Saver(
                run_folder=Path(folder),
                model=model,
                optimizer=optimizer,
                total_steps=10**9,
                state=run_identity(execution.to_dict()),
                metadata=run_metadata(),
                emit=lambda _event: None,
            ),
            checkpoint=None,
            total_steps=10**9,  # the clock ends it
            accumulation=1,
            max_grad_norm=1.0,
            scale_loss=False,
            on_nonfinite="stop",
            eval_every_n_steps=None,
            patience=None,
            min_delta=0.0,
            emit=lambda _event: None,
            stop=stop,
            started=0.0,
        )


def fabric(settings: dict[str, Any], clock: Clock) -> None:
    """The plain model and loop under Lightning Fabric."""
    import bench_plain

    _under_fabric(settings, clock, bench_plain.build(settings))


def litgpt(settings: dict[str, Any], clock: Clock) -> None:
    """LitGPT's model, with our sizes and tied embeddings, in Fabric's loop."""
    from litgpt.config import Config
    from litgpt.model import GPT

    shape = settings["model"]
    model = GPT(
        Config(
            block_size=shape["max_seq_len"],
            vocab_size=shape["vocab_size"],
            padded_vocab_size=shape["vocab_size"],
            n_layer=shape["num_layers"],
            n_head=shape["num_heads"],
            n_embd=shape["d_model"],
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            intermediate_size=shape["d_ff"],
        )
    )
    model.lm_head.weight = model.transformer.wte.weight

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids, targets):
            logits = self.model(ids)
            return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    _under_fabric(settings, clock, WithLoss())


def _under_fabric(settings: dict[str, Any], clock: Clock, model: torch.nn.Module) -> None:
    import bench_plain
    from lightning.fabric import Fabric

    torch.manual_seed(0)
    torch.set_num_threads(settings["threads"])
    data = bench_plain.open_data(settings)
    batch, length = settings["batch_size"], settings["model"]["max_seq_len"]
    clock.describe(parameters=sum(parameter.numel() for parameter in model.parameters()))
    device = settings["device"]
    running = Fabric(accelerator=device, devices=1, precision=settings["precision"])
    module, optimizer = running.setup(model, bench_plain.adamw(model))
    while True:
        loss = module(*bench_plain.get_batch(data, batch, length, device))
        running.backward(loss)
        running.clip_gradients(module, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if clock(batch * length):
            return


def trainer(settings: dict[str, Any], clock: Clock) -> None:
    """Hugging Face's Llama and Trainer."""
    import bench_plain
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(settings["threads"])
    shape, data = settings["model"], bench_plain.open_data(settings)
    batch, length = settings["batch_size"], shape["max_seq_len"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["d_model"],
            intermediate_size=shape["d_ff"],
            num_hidden_layers=shape["num_layers"],
            num_attention_heads=shape["num_heads"],
            max_position_embeddings=length,
            tie_word_embeddings=True,
        )
    )
    clock.describe(parameters=sum(parameter.numel() for parameter in model.parameters()))

    class Windows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(data) // length

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = torch.tensor(data[index * length : (index + 1) * length], dtype=torch.int64)
            return {"input_ids": ids, "labels": ids}

    class Rounds(TrainerCallback):
        def on_step_end(self, _args, _state, control, **_):
            control.should_training_stop = clock(batch * length)

    with tempfile.TemporaryDirectory(prefix="foundry-bench-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=10**6,
            bf16=settings["precision"] == BF16,
            use_cpu=settings["device"] == "cpu",
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
        )
        Trainer(model=model, args=arguments, train_dataset=Windows(), callbacks=[Rounds()]).train()
