"""Token store → a small trained GPT, as an artifact that `transformers` loads too.

AdamW, cosine learning rate with a short warm-up, gradient norm clipped at 1 (S4's recipe; Radford et al. 2019). Rows
come in an order computed from the step, so a run that goes on from a checkpoint ends bit for bit where the
uninterrupted one does. Held-out rows are never seen; the loss on them is in the manifest.

Shapes: B rows, C context.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, make
from monosemy.data.rows import shuffled_rows
from monosemy.data.tokens import TokenStore
from monosemy.draft import Draft
from monosemy.files import load_tensors, save_tensors
from monosemy.models.gpt import Gpt, GptShape, save_as_gpt2
from monosemy.runtime import MetricLog, Progress, UsageError, full_rate_products, pick_device, settings_of

CHECKPOINT_EVERY_S = 20.0
LOG_EVERY = 20
VALIDATION_ROWS = 256
VALIDATION_BATCH = 32


@dataclass(frozen=True)
class PretrainSettings:
    """The network and how it is trained."""

    layers: int = 4
    """Blocks."""
    d_model: int = 128
    """Width of the residual stream; the MLP is four times as wide."""
    heads: int = 4
    """Attention heads."""
    batch_rows: int = 8
    """Token rows a step."""
    steps: int | None = None
    """Steps (default: one pass over the training rows)."""
    lr: float = 3e-3
    """Peak learning rate; it falls along a cosine to a tenth."""
    warmup: float = 0.02
    """Share of the steps over which it rises from 0."""
    weight_decay: float = 0.1
    """Of AdamW, on matrices only."""
    seed: int = 0
    """Of the initial weights and the order of the rows."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        for name in ("layers", "d_model", "heads", "batch_rows", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` (={value}) must be at least 1")
        for name in ("warmup", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"`{name}` (={getattr(self, name)}) must be from 0 to 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"`seed` (={self.seed}) must be from 0 to 2^63 - 1")
        if not 0 < self.lr < 1:
            raise UsageError(f"`lr` (={self.lr}) must be above 0 and below 1")


def pretrain(
    tokens: str | Path | TokenStore, *, out: str | Path, settings: PretrainSettings | None = None, **options: Any
) -> Artifact:
    """Train a GPT on the training rows of `tokens` into the folder `out`. `options` are fields of PretrainSettings."""
    settings = settings or settings_of(PretrainSettings, options)
    store = TokenStore.open(tokens)
    if len(store.train_rows) < 1:
        raise UsageError(f"{store.artifact.path}: holds no training rows; tokenize more text or lower --holdout")
    config = asdict(settings)
    del config["device"]

    def write(draft: Draft) -> dict[str, Any]:
        model = _Run(store, settings, draft.path).train()
        save_as_gpt2(model, draft.path, store.edges.bos, store.edges.eos)
        shutil.copy(store.artifact.path / "tokenizer" / "tokenizer.json", draft.path / "tokenizer.json")
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "validation_loss": validation_loss(model, store),
        }

    return make(out, "model", config, {"tokens": store.artifact.as_parent()}, write)


class _Run:
    """One training run: its model, optimiser and place in the schedule."""

    def __init__(self, store: TokenStore, settings: PretrainSettings, folder: Path) -> None:
        self.store, self.settings, self.folder = store, settings, folder
        self.device = pick_device(settings.device)
        shape = GptShape(store.vocab_size, store.context, settings.layers, settings.d_model, settings.heads)
        self.model = Gpt(shape, settings.seed).to(self.device)
        self.steps = settings.steps or max(1, len(store.train_rows) // settings.batch_rows)
        self.adam = self._adam()
        self.checkpoint = folder / "scratch" / "checkpoint.safetensors"

    def _adam(self) -> torch.optim.AdamW:
        matrices = [p for p in self.model.parameters() if p.ndim == 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": self.settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.settings.lr, betas=(0.9, 0.95), fused=True)

    def train(self) -> Gpt:
        """Train to the end, from the checkpoint if there is one."""
        start = self._resume()
        log = MetricLog(self.folder / "metrics.jsonl", start)
        batch, context = self.settings.batch_rows, self.store.context
        stream = shuffled_rows(len(self.store.train_rows), batch, self.settings.seed, start)
        saved_at = time.monotonic()
        total = self.steps * batch * context
        with full_rate_products(self.device), Progress("pretrain", total, start * batch * context, "tokens") as bar:
            for step in range(start, self.steps):
                loss = self._step(step, torch.from_numpy(next(stream)))
                done = step + 1
                if done % LOG_EVERY == 0 or done == self.steps:
                    value = float(loss)
                    if not math.isfinite(value):
                        raise UsageError(f"the loss is {value} at step {done}; lower `lr` (={self.settings.lr})")
                    log.write(done, {"loss": value})
                    bar.note = f"loss {value:.2f}"
                if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                    self._save(done)
                    saved_at = time.monotonic()
                bar.advance(batch * context)
        return self.model

    def _step(self, step: int, rows_B: torch.Tensor) -> torch.Tensor:
        batch = self.store.batch(rows_B)
        for group in self.adam.param_groups:
            group["lr"] = self.settings.lr * cosine(step, self.steps, self.settings.warmup)
        loss = self.model.loss(batch.ids_BC.to(self.device), batch.mask_BC.to(self.device))
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        return loss.detach()

    def _save(self, step: int) -> None:
        self.checkpoint.parent.mkdir(exist_ok=True)
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            state |= {f"adam.{name}.{key}": tensor for key, tensor in self.adam.state[parameter].items()}
        save_tensors(self.checkpoint, {**state, "step": torch.tensor(step)})

    def _resume(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = load_tensors(self.checkpoint, self.device)
        names = self.model.state_dict().keys()
        self.model.load_state_dict({name: state[f"model.{name}"] for name in names})
        for name, parameter in self.model.named_parameters():
            prefix = f"adam.{name}."
            self.adam.state[parameter] = {
                key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)
            }
        return int(state["step"])


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step counted from 0: a linear rise, then a cosine from 1 to 0.1."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    share = (step - rise) / max(1, steps - rise)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * share))


def validation_loss(model: Gpt, store: TokenStore) -> float | None:
    """Mean loss in nats over up to VALIDATION_ROWS held-out rows, evenly spaced; None where none were held out."""
    rows = store.spread(store.holdout_rows, VALIDATION_ROWS)
    if not rows:
        return None
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in store.batches(VALIDATION_BATCH, rows):
            targets = int(batch.mask_BC[:, 1:].sum())
            device = next(model.parameters()).device
            total += float(model.loss(batch.ids_BC.to(device), batch.mask_BC.to(device))) * targets
            count += targets
    return total / count
