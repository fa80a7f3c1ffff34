"""What `steps.py` measures: kinds of work, and for each the same step by us and by every peer, from the same weights.

ReLU dictionaries are measured where they usually are, late in training, when few features fire. So ours first trains on
the rows of a world; then everybody starts from those weights and from learning rate LR, so small that no density moves
while it is measured (it is measured again after). TopK dictionaries start from their own initial weights: k is k.

All libraries get the same raw rows, λ and k; on both sides dead features are tracked and gradients clipped to norm 1,
`as_used` excepted: there a peer does only what its users get. Ours is driven as the training loop drives it.

Shapes: B rows, N = width, D = d_in, M members.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from peer_sparsify import sparsify
from peers import Peer, Step, dictionary_learning, quietly, saelens

from monosemy.data.rows import ArrayRows
from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.files import load_tensors, save_tensors
from monosemy.runtime import Progress, full_rate_products
from monosemy.training.ensemble import Ensemble, ensembles_of
from monosemy.training.frame import framed
from monosemy.training.schedule import Schedule
from monosemy.training.settings import default_lr, grid
from monosemy.training.sweep import settings_from

CLIP = 1.0
LR = 1e-7
SMALL = " (small)"
LONG = 100_000  # steps of a run whose schedules do not end here
PACKAGES = {"SAELens": "sae_lens", "dictionary_learning": "dictionary_learning", "sparsify": "sparsify"}


@dataclass(frozen=True)
class Work:
    """One line of the table: dictionaries of one variant, one batch shown to each."""

    name: str
    variant: str
    d_in: int
    widths: tuple[int, ...]
    batch: int
    world: WorldSettings
    asked: Mapping[str, tuple[float, float | None]]
    """By peer: how many times faster ours is to be, in fp32 and in bf16."""
    k: int = 32
    l1: tuple[float, ...] = (0.0,)
    late_steps: int = 0
    rounds: int = 7
    as_used: bool = False
    device: str = "cpu"

    def small(self) -> Work:
        """The same on a small scale, to see that it runs, or to have it compiled."""
        world = replace(self.world, d_in=64, features=min(self.world.features, 256), l0=min(self.world.l0, 8))
        widths = tuple(dict.fromkeys(max(32, width // 32) for width in self.widths))
        return replace(
            self, name=self.name + SMALL, d_in=64, widths=widths, k=min(self.k, 16), batch=128, world=world,
            late_steps=min(self.late_steps, 20),
        )  # fmt: skip


INTERIM_L1 = tuple(10 ** (e / 4) for e in range(-8, 9))
MANY = WorldSettings(d_in=512, features=1024, l0=8, decay=1.0, zipf=0.5, correlation="none")
WORKS = {
    "topk": Work(
        "TopK step, D=512 N=16,384 B=4096 k=32", "topk", 512, (16_384,), 4096, MANY,
        {"sparsify": (4, 6), "dictionary_learning": (14, 20), "SAELens": (18, 25)}, rounds=5,
    ),
    "relu": Work(
        "ReLU-L1 step, D=512 N=4096 B=2048, late", "relu", 512, (4096,), 2048, MANY,
        {"SAELens": (4, 7), "dictionary_learning": (4, 7)}, l1=(0.2,), late_steps=160,
    ),
    "grid": Work(
        "40-member toy grid, D=256 N=64…1024 B=256, late", "relu", 256, (64, 128, 256, 512, 1024), 256, WorldSettings(),
        {"SAELens": (4, 5), "dictionary_learning": (4, 5)}, l1=tuple(10 ** (e / 4) for e in range(-8, 0)),
        late_steps=1500, as_used=True,
    ),
    "gpu-grid": Work(
        "136-member toy grid on a GPU, D=32 N=16…2048 B=256, late", "relu", 32, tuple(2**r for r in range(4, 12)), 256,
        WorldSettings(d_in=32, features=64), {"SAELens": (20, None)}, l1=INTERIM_L1, late_steps=2000, as_used=True,
        device="cuda",
    ),
    "gpu-topk": Work(
        "TopK step on a GPU, D=4096 N=131,072 B=8192 k=64", "topk", 4096, (131_072,), 8192,
        replace(MANY, d_in=4096), {"sparsify": (1.5, None)}, k=64, device="cuda",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a step, the dictionaries as they are now, how many parameters they have."""

    step: Step
    dictionaries: Callable[[], list[Dictionary]] = list
    parameters: int = 0
    bf16: bool = field(default=False, kw_only=True)


def batches_of(work: Work, count: int) -> list[torch.Tensor]:
    """The rows that every arm sees, on the work's device."""
    stream = World(work.world).batches(work.batch, seed=0)
    with Progress("rows", count, unit="batches") as bar:
        found = []
        for _ in range(count):
            found.append(next(stream).to(work.device))
            bar.advance()
    return found


def prepare(work: Work, folder: Path) -> None:
    """Train ours to where it is late; keep the state of its stacks and, for the peers, its weights in `folder`."""
    if not work.late_steps:
        return
    stream = World(work.world).batches(work.batch, seed=1)
    stacks = _stacks(work, "fp32", next(stream), rates=None)
    schedule = Schedule(decay=0.0)
    with Progress(f"ours until late: {work.name}", work.late_steps) as bar:
        for number in range(work.late_steps):
            x_BD = next(stream).to(work.device)
            with torch.no_grad(), full_rate_products(torch.device(work.device)):
                for stack in stacks:
                    stack.step(x_BD, *schedule.factors(number, work.late_steps))
            bar.advance()
    for number, stack in enumerate(stacks):
        save_tensors(folder / f"stack-{number}.safetensors", stack.state())
    for number, dictionary in enumerate(_exported(stacks)):
        save_tensors(folder / f"member-{number}.safetensors", dictionary.tensors)


def ours(work: Work, first_BD: torch.Tensor, folder: Path, bf16: bool) -> Arm:
    """Stacks of members of one width, at full rate."""
    stacks = _stacks(work, "bf16" if bf16 else "fp32", first_BD, rates=(LR,))
    if work.late_steps:
        for number, stack in enumerate(stacks):
            stack.load_state(load_tensors(folder / f"stack-{number}.safetensors"))
    device = torch.device(work.device)

    def step(x_BD: torch.Tensor) -> None:
        with torch.no_grad(), full_rate_products(device):
            for stack in stacks:
                stack.step(x_BD)

    parameters = sum(tensor.numel() for stack in stacks for tensor in stack.params.values())
    return Arm(step, lambda: _exported(stacks), parameters, bf16=bf16)


def theirs(work: Work, library: str, folder: Path, bf16: bool) -> Arm:
    """One trainer a member, stepped one after another: their users' loop."""
    members = list(product(work.widths, work.l1))
    peers: list[Peer] = quietly(lambda: [_peer(work, library, width, l1, bf16) for width, l1 in members])
    if work.late_steps:
        for number, peer in enumerate(peers):
            _start_from(peer, load_tensors(folder / f"member-{number}.safetensors"))

    def step(x_BD: torch.Tensor) -> None:
        for peer in peers:
            peer.step(x_BD)

    parameters = sum(tensor.numel() for peer in peers for tensor in peer.module.parameters())
    return Arm(step, lambda: [peer.dictionary() for peer in peers], parameters, bf16=bf16)


def at_full_rate(arm: Arm, device: str) -> Arm:
    """The same with torch allowed the faster fp32 products that ours asks for."""

    def step(x_BD: torch.Tensor) -> None:
        with full_rate_products(torch.device(device)):
            arm.step(x_BD)

    return replace(arm, step=step)


def encode_product(work: Work, bf16: bool) -> Arm:
    """The one dense product that a sparse step cannot do without."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    W_ND = torch.randn(work.widths[0], work.d_in, device=work.device, dtype=dtype)
    z_BN = torch.empty(work.batch, work.widths[0], device=work.device, dtype=dtype)

    def step(x_BD: torch.Tensor) -> None:
        with full_rate_products(torch.device(work.device)):
            torch.mm(x_BD.to(dtype), W_ND.T, out=z_BN)

    return Arm(step, bf16=bf16)


def installed(work: Work) -> list[str]:
    """The peers of this work that are here."""
    return [library for library in work.asked if importlib.util.find_spec(PACKAGES[library]) is not None]


def _peer(work: Work, library: str, width: int, l1: float, bf16: bool) -> Peer:
    device = work.device
    clip = None if work.as_used else CLIP
    if library == "sparsify":
        return sparsify(work.d_in, width, work.k, lr=LR, clip=clip, bf16=bf16, device=device)
    if library == "SAELens":
        kind, dial = ("topk", {"k": work.k}) if work.variant == "topk" else ("standard", {"l1_coefficient": l1})
        return saelens(kind, work.d_in, width, LONG, work.batch, lr=LR, bf16=bf16, device=device, **dial)
    if work.variant == "topk":  # it clips and tracks by itself
        return dictionary_learning("topk", work.d_in, width, LONG, lr=LR, bf16=bf16, device=device, k=work.k)
    tracked = {} if work.as_used else {"resample_steps": LONG // 2}
    return dictionary_learning(
        "standard", work.d_in, width, LONG, lr=LR, clip=clip, bf16=bf16, device=device, l1_penalty=l1, **tracked
    )


def _start_from(peer: Peer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a peer's ReLU dictionary the weights of ours; both peers subtract b_dec before encoding."""
    b_dec_D = tensors["b_dec"]
    b_enc_N = tensors["b_enc"] + tensors["W_enc"] @ b_dec_D
    weights = {
        "SAELens": {"W_enc": tensors["W_enc"].T, "b_enc": b_enc_N, "W_dec": tensors["W_dec"], "b_dec": b_dec_D},
        "dictionary_learning": {
            "encoder.weight": tensors["W_enc"], "encoder.bias": b_enc_N,
            "decoder.weight": tensors["W_dec"].T, "bias": b_dec_D,
        },
    }[peer.library]  # fmt: skip
    peer.module.load_state_dict(weights)


def _stacks(work: Work, dtype: str, first_BD: torch.Tensor, rates: tuple[float, ...] | None) -> list[Ensemble]:
    dial = {"k": work.k} if work.variant == "topk" else {"l1": work.l1}
    settings = settings_from(
        variant=work.variant, width=work.widths, batch=work.batch, scale="none", clip=CLIP, dtype=dtype,
        lr=rates or (default_lr(work.variant, max(work.widths), work.batch, 1),), device=work.device, **dial,
    )  # fmt: skip
    frame = framed(ArrayRows(first_BD.cpu()), settings.frame)
    return ensembles_of(grid(settings, work.d_in), settings, frame, torch.device(work.device), work.batch)


def _exported(stacks: list[Ensemble]) -> list[Dictionary]:
    return [stack.export(number) for stack in stacks for number in range(len(stack.members))]
