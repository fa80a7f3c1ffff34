"""Cross-entropy and KL with a replacement spliced in, against a computation by hand through a forward hook."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from conftest import shared
from torch.nn import functional as F

from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.baselines import neuron_basis
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics.downstream import constant, downstream_scores, replacement, splice
from monosemy.models.language_model import LanguageModel

SITE = "layers.2.mlp_act"
D = 172


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load(shared("models/stories260K"), device="cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """One document a row, of unequal lengths, each after a BOS: rows are padded."""
    folder = tmp_path_factory.mktemp("splice")
    texts = ["Once upon a time there was a dog.", "Tim ran.", "Lily likes to play with the big red ball in the park."]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tokenize(
        str(folder / "text.jsonl"),
        tokenizer=str(shared("models/stories260K")),
        context=64,
        packed=False,
        holdout=0,
        out=folder / "tokens",
    )


def dictionary() -> ReluDictionary:
    g = torch.Generator().manual_seed(0)
    W = F.normalize(torch.randn(300, D, generator=g), dim=1)
    return ReluDictionary({"W_enc": W, "b_enc": torch.zeros(300), "W_dec": W / 2, "b_dec": torch.zeros(D)})


def by_hand(
    model: LanguageModel, tokens: TokenStore, edit: Callable[[torch.Tensor], torch.Tensor], keep_bos: bool
) -> tuple[float, float]:
    """Mean cross-entropy and KL, document by document, without padding, with a hook on the down projection."""
    down = model.model.model.layers[2].mlp.down_proj
    nats, kl, count = 0.0, 0.0, 0
    for row in range(tokens.n_rows):
        batch = tokens.batch(torch.tensor([row]))
        ids = batch.ids_BC

        def pre_hook(_: object, inputs: tuple[torch.Tensor], ids: torch.Tensor = ids) -> tuple[torch.Tensor]:
            edited = edit(inputs[0].clone())
            return (torch.where((ids == 1)[:, :, None], inputs[0], edited) if keep_bos else edited,)

        with torch.no_grad():
            plain = model.model(ids).logits[0, :-1].log_softmax(-1)
            handle = down.register_forward_pre_hook(pre_hook)
            changed = model.model(ids).logits[0, :-1].log_softmax(-1)
            handle.remove()
        nats -= float(changed.gather(1, ids[0, 1:, None]).sum())
        kl += float((plain.exp() * (plain - changed)).sum())
        count += ids.shape[1] - 1
    return nats / count, kl / count


@pytest.mark.parametrize("keep_bos", [False, True])
def test_scores_equal_a_computation_by_hand(model: LanguageModel, tokens: TokenStore, keep_bos: bool) -> None:
    mean_D = torch.linspace(-0.1, 0.1, D)
    edits = {
        "0": replacement(dictionary(), [SITE]),
        "zero": constant({SITE: torch.zeros(D)}),
        "mean": constant({SITE: mean_D}),
    }
    with torch.inference_mode():
        found = splice(model, tokens, edits, range(tokens.n_rows), keep_bos)
    assert found.keys() == {"original", *edits}
    rebuild = dictionary().reconstruct
    hand = {
        "original": by_hand(model, tokens, lambda x: x, keep_bos),
        "0": by_hand(model, tokens, lambda x: rebuild(x[0])[None], keep_bos),
        "zero": by_hand(model, tokens, torch.zeros_like, keep_bos),
        "mean": by_hand(model, tokens, lambda x: mean_D.expand_as(x), keep_bos),
    }
    for name, (cross_entropy, kl) in hand.items():
        assert found[name].cross_entropy == pytest.approx(cross_entropy, abs=1e-4), name
        assert found[name].kl == pytest.approx(kl, abs=1e-4), name
        assert found[name].count == tokens.n_tokens - tokens.n_rows
    scores = downstream_scores(found, "0")
    recovered = (hand["zero"][0] - hand["0"][0]) / (hand["zero"][0] - hand["original"][0])
    assert scores["ce_recovered"] == pytest.approx(recovered, abs=1e-3)
    assert scores["ce_mean"] == pytest.approx(hand["mean"][0], abs=1e-4)
    ratio = torch.tensor(hand["0"][0] - hand["original"][0]).exp()
    assert scores["perplexity_ratio"] == pytest.approx(float(ratio), rel=1e-3)


def test_the_identity_recovers_everything_and_zero_nothing(model: LanguageModel, tokens: TokenStore) -> None:
    edits = {"identity": replacement(neuron_basis(D), [SITE]), "zero": constant({SITE: torch.zeros(D)})}
    with torch.inference_mode():
        found = splice(model, tokens, edits, range(tokens.n_rows))
    identity, zero = (downstream_scores(found, name) for name in ("identity", "zero"))
    assert identity["ce_recovered"] == pytest.approx(1, abs=1e-5)
    assert identity["kl"] == pytest.approx(0, abs=1e-6)
    assert identity["ce_mean"] is None
    assert zero["ce_recovered"] == pytest.approx(0, abs=1e-9)


def test_token_rows_can_be_a_list(model: LanguageModel, tokens: TokenStore) -> None:
    with torch.inference_mode():
        few = splice(model, tokens, {"zero": constant({SITE: torch.zeros(D)})}, [2, 0])
    lengths = tokens.row_lengths_R[[0, 2]]
    assert few["zero"].count == int(lengths.sum()) - 2
