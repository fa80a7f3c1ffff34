"""Dictionaries of SAELens and dictionary_learning, trained as their users train them and scored by our metrics.

A `Peer` takes the same batches as ours, one `step` each, and then gives what it learned through our `Dictionary`
contract. Everything inside is theirs: the trainer with what it does at each step (dead features tracked, gradients
clipped, schedules), the initial weights, and the encoder that their files are used with, which for SAELens means the
saved and reloaded inference model. Only `bench-env` has them.

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


@dataclass(frozen=True)
class Peer:
    """One dictionary in training: `step(x_BD)` trains it, `dictionary()` gives it as it is now."""

    library: str
    recipe: str
    step: Step
    dictionary: Callable[[], Dictionary]


class Foreign(Dictionary):
    """Somebody else's dictionary behind our contract: its own encoder and decoder, its directions as `W_dec` [N, D]."""

    name = "foreign"

    def __init__(self, module: Any, W_dec_ND: torch.Tensor) -> None:
        super().__init__({"W_dec": W_dec_ND.detach()})
        self.module = module

    @torch.no_grad()
    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN`, by the module."""
        codes_BN: torch.Tensor = self.module.encode(x_BD)
        return codes_BN

    @torch.no_grad()
    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """`x̂_BD`, by the module."""
        rec_BD: torch.Tensor = self.module.decode(codes_BN)
        return rec_BD

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary; peers run on the CPU. Raises UsageError for another device."""
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
    kind: str, d_in: int, width: int, steps: int, batch: int, *, lr: float = 3e-4, seed: int = 0, **options: Any
) -> Peer:
    """SAELens: `kind` is standard (`l1_coefficient`), batchtopk or matryoshka (`k`); `options` go to its config.

    The trainer is driven as its own loops for one and for several dictionaries (`SAETrainer.fit`,
    `MultiSAETrainer.fit`) drive it; `lr` 3e-4 is its default, constant as in its `train_toy_sae`.
    """
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    names = {"standard": "Standard", "batchtopk": "BatchTopK", "matryoshka": "MatryoshkaBatchTopK"}
    config_class = getattr(sae_lens, f"{names[kind]}TrainingSAEConfig")
    sae_class = getattr(sae_lens, f"{names[kind]}TrainingSAE")
    torch.manual_seed(seed)
    sae = quietly(lambda: sae_class(config_class(d_in=d_in, d_sae=width, device="cpu", **options)))
    config = SAETrainerConfig(
        total_training_samples=steps * batch, train_batch_size_samples=batch, lr=lr, lr_end=lr, device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
    )  # fmt: skip
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=iter(()))

    def step(x_BD: torch.Tensor) -> None:
        trainer.maybe_reset_sparsity()
        trainer.step(x_BD)
        trainer.n_training_steps += 1

    def dictionary() -> Dictionary:
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            saved = quietly(lambda: sae_lens.SAE.load_from_disk(folder))
        return Foreign(saved, saved.W_dec)

    return Peer("SAELens", _recipe(kind, lr, options), step, dictionary)


def dictionary_learning(
    kind: str, d_in: int, width: int, steps: int, *, lr: float | None = None, seed: int = 0, **options: Any
) -> Peer:
    """dictionary_learning: `kind` is standard (`l1_penalty`), topk or batchtopk (`k`); `options` go to its trainer.

    `lr` is the trainer's default where it is not given. Its `trainSAE` calls `update` on each trainer with one batch.
    """
    from dictionary_learning import trainers

    trainer_class = {
        "standard": trainers.StandardTrainer,
        "topk": trainers.TopKTrainer,
        "batchtopk": trainers.BatchTopKTrainer,
    }[kind]
    chosen = {**options, "warmup_steps": min(WARMUP, steps // 5)}
    if lr is not None:
        chosen["lr"] = lr
    if kind == "standard":
        chosen["sparsity_warmup_steps"] = min(L1_WARMUP, steps // 5)
    else:
        chosen["threshold_start_step"] = min(WARMUP, steps // 5)
    trainer = trainer_class(
        steps=steps, activation_dim=d_in, dict_size=width, layer=0, lm_name="toy", seed=seed, device="cpu", **chosen
    )
    done = 0

    def step(x_BD: torch.Tensor) -> None:
        nonlocal done
        trainer.update(done, x_BD)
        done += 1

    def dictionary() -> Dictionary:
        return Foreign(trainer.ae, trainer.ae.decoder.weight.T)

    return Peer("dictionary_learning", _recipe(kind, trainer.lr, options), step, dictionary)


def _recipe(kind: str, lr: float, options: dict[str, Any]) -> str:
    return ", ".join([kind, *(f"{name} {value}" for name, value in options.items()), f"lr {lr:.3g}"])
