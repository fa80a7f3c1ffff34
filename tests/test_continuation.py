"""Variants of a prompt by the short way against full forward passes, on every architecture; and that it is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from networks import CAUSAL, NETWORKS, save_network
from torch import nn

from monosemy.models import continuation
from monosemy.models.continuation import Slot, last_activations
from monosemy.models.language_model import LanguageModel

IDS_V = torch.randperm(61, generator=torch.Generator().manual_seed(2))
SLOTS = {
    "append": Slot([5, 9, 2, 44, 7, 5, 11], []),
    "prepend": Slot([], [5, 9, 2, 44, 7, 5, 11, 6, 1]),  # beyond the windows of gpt-neo, gemma2 and gemma3
    "prepend after BOS": Slot([1], [5, 9, 2, 44, 7, 5, 11]),
    "replace": Slot([5, 9, 2, 44], [7, 5]),
    "alone after BOS": Slot([1], []),
    "alone": Slot([], []),
}
SITES = [
    "layers.0.mlp_in",
    "layers.0.resid_post",
    "layers.1.attn_out",
    "layers.1.mlp_act",
    "layers.2.resid_pre",
    "final",
]
Opener = Callable[[str], LanguageModel]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """One loaded model an architecture."""
    models: dict[str, LanguageModel] = {}

    def open_one(name: str) -> LanguageModel:
        if name not in models:
            models[name] = LanguageModel.load(save_network(name, tmp_path_factory.mktemp(name)), device="cpu")
        return models[name]

    return open_one


def in_full(model: LanguageModel, site: str, slot: Slot, ids_V: torch.Tensor) -> torch.Tensor:
    """One full pass over whole rows."""
    rows = [[*slot.before, token, *slot.after] for token in ids_V.tolist()]
    return model.capture(torch.tensor(rows), [site])[site][:, -1]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_variant_is_that_of_a_full_pass(name: str, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(continuation.TOKENS_AT_ONCE, "cpu", 50)  # several batches, the last one shorter
    model = opened(name)
    for slot in SLOTS.values():
        for site in SITES:
            expected_VD = in_full(model, site, slot, IDS_V[:7])
            parts = list(last_activations(model, site, slot, IDS_V[:7]))
            assert len(parts) == -(-7 // (50 // slot.length))
            error = (torch.cat(parts) - expected_VD).norm() / expected_VD.norm()
            assert error < 1e-4, (slot, site, error)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models_take_the_short_way_where_there_is_one(name: str, opened: Opener) -> None:
    model = opened(name)
    parallel = name in ("neox-parallel", "phi")
    for slot in (SLOTS[key] for key in ("append", "prepend", "alone")):
        for site in SITES:
            reader = continuation._reader(model, site, slot, IDS_V)
            nothing_to_share = slot.length == 1 or (parallel and site == "layers.0.mlp_in")
            assert (reader is None) == nothing_to_share, (slot, site)
    depths = []
    for site in ("layers.0.resid_post", "layers.1.mlp_act", "final"):
        reader = continuation._reader(model, site, SLOTS["replace"], IDS_V)
        assert reader is not None
        depths.append(reader.depth)
    assert depths == ([1, 1, 3] if parallel else [1, 2, 3])


@pytest.mark.parametrize("name", ["bert", "bert-headless"])
def test_encoders_run_in_full(name: str, opened: Opener) -> None:
    assert continuation._reader(opened(name), "final", SLOTS["append"], IDS_V) is None


@contextmanager
def vectors_through(part: torch.nn.Module) -> Iterator[list[int]]:
    """How many vectors the part computes, call by call; hooks before it may have made them fewer."""
    forward, seen = part.forward, list[int]()

    def run(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.numel() // x.shape[-1])
        given: torch.Tensor = forward(x)
        return given

    part.forward = run
    try:
        yield seen
    finally:
        del part.forward


@pytest.mark.parametrize("name", ["llama", "neox-parallel", "gpt2"])
def test_shared_positions_are_computed_once(name: str, opened: Opener) -> None:
    model = opened(name)
    reader = continuation._reader(model, "layers.2.mlp_act", SLOTS["prepend"], IDS_V)
    assert reader is not None
    attention = next(part for part in model.pointwise(0) if isinstance(part, nn.Linear) or "Conv1D" in str(type(part)))
    with vectors_through(attention) as first, vectors_through(model.pointwise(1)[-1]) as last:
        reader.read(IDS_V[:20])
    # Behind the variant, which differs, stand 8 positions of which keys and values are needed, and the last one.
    assert first == [20 + 8, 1]
    # In a parallel block the second attention is the last before the site: what comes behind it is for one position.
    assert last == ([20] if name == "neox-parallel" else [20 * 9, 20])


def test_a_way_that_gives_something_else_is_not_taken(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose cache goes wrong runs in full."""
    model, slot = opened("llama"), SLOTS["replace"]
    right = continuation._Reader._past

    def wrong(self: continuation._Reader, count: int) -> object:
        past = right(self, count)
        past.layers[0].values = past.layers[0].values * 1.01
        return past

    monkeypatch.setattr(continuation._Reader, "_past", wrong)
    assert continuation._reader(model, "final", slot, IDS_V) is None
    found_VD = torch.cat(list(last_activations(model, "final", slot, IDS_V)))
    torch.testing.assert_close(found_VD, in_full(model, "final", slot, IDS_V), rtol=1e-4, atol=1e-5)


def test_nothing_stays_behind(opened: Opener) -> None:
    """Neither hooks nor a change of the prefix's cache, even when a scan is given up half way."""
    model, slot = opened("neox-parallel"), SLOTS["prepend after BOS"]
    before = model.logits(torch.tensor([[4, 5, 6]]))
    reader = continuation._reader(model, "layers.2.mlp_act", slot, IDS_V)
    assert reader is not None
    first, again = reader.read(IDS_V[:9]), reader.read(IDS_V[:9])
    assert torch.equal(first, again)
    assert [layer.keys.shape[0:3:2] for layer in reader.before.layers] == [(1, 1)] * reader.depth
    scan = last_activations(model, "layers.2.mlp_act", slot, IDS_V)
    next(scan)
    del scan
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.model.modules())
    assert torch.equal(model.logits(torch.tensor([[4, 5, 6]])), before)


def test_no_variants_give_nothing_and_one_gives_one(opened: Opener) -> None:
    model, slot = opened("gpt2"), SLOTS["append"]
    assert list(last_activations(model, "final", slot, IDS_V[:0])) == []
    (x_1D,) = last_activations(model, "final", slot, IDS_V[:1])
    torch.testing.assert_close(x_1D, in_full(model, "final", slot, IDS_V[:1]))


def test_low_precision_takes_the_short_way(tmp_path: Path) -> None:
    model = LanguageModel.load(save_network("llama", tmp_path), device="cpu", dtype="bf16")
    assert continuation._reader(model, "layers.2.mlp_act", SLOTS["prepend"], IDS_V) is not None


def test_equal_rows_are_found_by_looking() -> None:
    """Positions equal in all rows go through once, wherever they are; rows that differ anywhere go through whole."""
    part = nn.Linear(3, 2)
    x_BCD = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    x_BCD[:, 1] = x_BCD[0, 1]
    x_BCD[:, 4] = x_BCD[0, 4]
    x_BCD[:2, 2] = x_BCD[0, 2]  # two rows alike, the others not
    with torch.inference_mode(), vectors_through(part) as seen:
        for places in ([0, 1, 2, 3, 4], [0, 2, 3], [1, 4]):
            expected_BCE = part(x_BCD[:, places])
            with continuation._equal_rows_once([part]):
                torch.testing.assert_close(part(x_BCD[:, places]), expected_BCE)
    assert seen[1::2] == [2 + 4 * 3, 4 * 3, 2]
