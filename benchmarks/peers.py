"""Dictionaries of SAELens and dictionary_learning, trained as their users train them and scored by our metrics.

A `Peer` takes the same batches as ours, one `step` each, and then gives what it learned through our `Dictionary`
contract. Everything inside is theirs: the trainer with what it does at each step (dead features tracked, gradients
clipped, schedules), the initial weights, and the encoder that their files are used with, which for SAELens means the
saved and reloaded inference model. Only `bench-env` has them.

What a step of theirs does beside gradients and Adam: SAELens counts firings, tracks dead features and clips; its
decoder rows are free. dictionary_learning tracks dead features and clips in its TopK, BatchTopK, Matryoshka and
JumpReLU trainers; its other trainers do neither, unless resampling is on (tracking) and `clip` asks here for what the
others do. sparsify is in `peer_sparsify.py`.

Shapes: B rows, D = d_in, N = width.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from monosemy.dictionaries.dictionary import Dictionary
from monosemy.runtime import UsageError

Step = Callable[[torch.Tensor], object]

WARMUP, L1_WARMUP = 1000, 2000  # steps; dictionary_learning's defaults, cut for runs shorter than five times them
ANNEAL_START = 0.2  # of a run: p-anneal's default is step 15,000, of runs of 100,000 and more
ANNEAL_END = 0.2  # p-anneal's default, 0, ends in a division by zero


@dataclass(frozen=True)
class Peer:
    """One dictionary in training: `step(x_BD)` trains it, `dictionary()` gives it as it is now; `module` is theirs."""

    library: str
    recipe: str
    step: Step
    dictionary: Callable[[], Dictionary]
    module: Any


class Foreign(Dictionary):
    """Somebody else's dictionary behind our contract: its own encoder and decoder, its directions as `W_dec` [N, D].

    It was trained on `scale` times the rows; its codes are given in units of the rows themselves.
    """

    name = "foreign"

    def __init__(self, module: Any, W_dec_ND: torch.Tensor, scale: float = 1.0) -> None:
        super().__init__({"W_dec": W_dec_ND.detach()})
        self.module, self.scale = module, scale

    @torch.no_grad()
    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN`, by the module."""
        codes_BN: torch.Tensor = self.module.encode(x_BD * self.scale)
        return codes_BN / self.scale

    @torch.no_grad()
    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """`x̂_BD`, by the module."""
        rec_BD: torch.Tensor = self.module.decode(codes_BN * self.scale)
        return rec_BD / self.scale

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary; peers are scored on the CPU. Raises UsageError for another device."""
        if torch.device(device).type != "cpu":
            raise UsageError(f"`device` (={device}) must be cpu for a peer's dictionary; run this benchmark on the CPU")
        return self


def quietly(make: Callable[[], Any]) -> Any:
    """What `make` gives, without what the peers print and warn of."""
    heard = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        warnings.simplefilter("ignore")
        return make()


def saelens(
    kind: str,
    d_in: int,
    width: int,
    steps: int,
    batch: int,
    *,
    lr: float = 3e-4,
    seed: int = 0,
    scale: float = 1.0,
    decay: float = 0.0,
    bf16: bool = False,
    device: str = "cpu",
    **options: Any,
) -> Peer:
    """SAELens: `kind` is standard or gated (`l1_coefficient`), topk, batchtopk or matryoshka (`k`), or jumprelu;
    `options` go to its config.

    The trainer is driven as its own loops for one and for several dictionaries (`SAETrainer.fit`,
    `MultiSAETrainer.fit`) drive it; `lr` 3e-4 is its default, constant as in its `train_toy_sae`, or falling to 0 over
    the last `decay` of the run, as in its tutorials. `bf16` is its `autocast`.
    """
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    name = {
        "standard": "Standard",
        "gated": "Gated",
        "topk": "TopK",
        "batchtopk": "BatchTopK",
        "matryoshka": "MatryoshkaBatchTopK",
        "jumprelu": "JumpReLU",
    }[kind]
    config_class, sae_class = getattr(sae_lens, f"{name}TrainingSAEConfig"), getattr(sae_lens, f"{name}TrainingSAE")
    torch.manual_seed(seed)
    sae = quietly(lambda: sae_class(config_class(d_in=d_in, d_sae=width, device=device, **options)))
    config = SAETrainerConfig(
        total_training_samples=steps * batch, train_batch_size_samples=batch, lr=lr, lr_end=lr, device=device,
        lr_decay_steps=round(decay * steps), autocast=bf16, logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(x_BD: torch.Tensor) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(_scaled(x_BD, scale))
        trainer.n_training_steps += 1

    def dictionary() -> Dictionary:
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            saved = quietly(lambda: sae_lens.SAE.load_from_disk(folder))
        return Foreign(saved, saved.W_dec, scale)

    return Peer("SAELens", recipe_of(kind, lr, options), step, dictionary, sae)


def dictionary_learning(
    kind: str,
    d_in: int,
    width: int,
    steps: int,
    *,
    lr: float | None = None,
    seed: int = 0,
    scale: float = 1.0,
    decay: float = 0.0,
    clip: float | None = None,
    bf16: bool = False,
    device: str = "cpu",
    **options: Any,
) -> Peer:
    """dictionary_learning: `kind` is standard or gated (`l1_penalty`), panneal (`initial_sparsity_penalty`), topk,
    batchtopk or matryoshka (`k`), or jumprelu (`target_l0`); `options` go to its trainer.

    `lr` is the trainer's default where it is not given; it falls to 0 over the last `decay` of the run. Its `trainSAE`
    calls `update` on each trainer with one batch, under autocast on a GPU; `bf16` does so on the CPU, too.
    """
    from dictionary_learning import trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.p_anneal import PAnnealTrainer

    trainer_class = {
        "standard": trainers.StandardTrainer,
        "gated": trainers.GatedSAETrainer,
        "panneal": PAnnealTrainer,
        "topk": trainers.TopKTrainer,
        "batchtopk": trainers.BatchTopKTrainer,
        "matryoshka": MatryoshkaBatchTopKTrainer,
        "jumprelu": trainers.JumpReluTrainer,
    }[kind]
    chosen = {**options, "warmup_steps": min(WARMUP, steps // 5)}
    if lr is not None:
        chosen["lr"] = lr
    if decay:
        chosen["decay_start"] = round((1 - decay) * steps)
    if "topk" in kind or kind == "matryoshka":
        chosen["threshold_start_step"] = min(WARMUP, steps // 5)
    else:
        chosen["sparsity_warmup_steps"] = min(L1_WARMUP, steps // 5)
    if kind == "panneal":
        chosen["anneal_start"], chosen["p_end"] = round(ANNEAL_START * steps), ANNEAL_END
    trainer = trainer_class(
        steps=steps, activation_dim=d_in, dict_size=width, layer=0, lm_name="toy", seed=seed, device=device, **chosen
    )
    if clip is not None:
        _clip_before(trainer.optimizer, list(trainer.ae.parameters()), clip)
    done = 0

    def step(x_BD: torch.Tensor) -> None:
        nonlocal done
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            trainer.update(done, _scaled(x_BD, scale))
        done += 1

    def dictionary() -> Dictionary:
        module = trainer.ae
        return Foreign(module, module.W_dec if hasattr(module, "W_dec") else module.decoder.weight.T, scale)

    return Peer("dictionary_learning", recipe_of(kind, trainer.lr, options), step, dictionary, trainer.ae)


def _clip_before(optimizer: Any, parameters: list[torch.Tensor], most: float) -> None:
    """Clip the gradients' norm before each of the optimiser's steps."""
    inner = optimizer.step

    def step(closure: Any = None) -> Any:
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return inner(closure)

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # else torch takes the scheduler for misused
    optimizer.step = step


def _scaled(x_BD: torch.Tensor, scale: float) -> torch.Tensor:
    return x_BD if scale == 1.0 else x_BD * scale


def recipe_of(kind: str, lr: float, options: dict[str, Any]) -> str:
    """A recipe in a few words."""
    return ", ".join([kind, *(f"{name} {value}" for name, value in options.items()), f"lr {lr:.3g}"])
