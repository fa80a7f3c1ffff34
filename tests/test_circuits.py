"""Derivatives between sites against finite differences on every architecture; connections against loops and hooks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import shared
from feature_worlds import token_store
from networks import NETWORKS, save_network
from torch import Tensor

from monosemy.analysis.bootstrap import ratio_interval
from monosemy.analysis.chart import Bars
from monosemy.analysis.circuits import CircuitEdges, CircuitSettings, Edge, children, parents
from monosemy.analysis.lab import Batch, Lab
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.baselines import LinearDictionary
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.jumprelu import JumpReluDictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.dictionaries.transcoder import SkipTranscoderDictionary
from monosemy.models.gradients import pull, push, rerun
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

VOCAB = 259
ALL: dict[str, Any] = {"top": 1000, "silent": 0, "rows": 1000, "search": 1000}
SILENT: dict[str, Any] = ALL | {"silent": 1000}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    """One network an architecture, in float64, so that finite differences are sharp."""
    models: dict[str, LanguageModel] = {}

    def open_one(name: str) -> LanguageModel:
        if name not in models:
            models[name] = LanguageModel.load(save_network(name, tmp_path_factory.mktemp(name)), device="cpu")
            models[name].model.double()
        return models[name]

    return open_one


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = save_network("llama", tmp_path_factory.mktemp("model"), vocab_size=VOCAB)
    return LanguageModel.load(folder, device="cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Rows of unequal lengths, so that there is padding."""
    return token_store(tmp_path_factory.mktemp("tokens"), [30, 5, 9, 1, 14], context=12, packed=False)


def relu(
    d_in: int, width: int, seed: int, bias: float = 0.0, form: type[ReluDictionary] = ReluDictionary
) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    W_ND, V_ND = (torch.randn(width, d_in, generator=generator) for _ in range(2))
    tensors = {"W_enc": W_ND, "b_enc": torch.full((width,), bias), "W_dec": V_ND / 5, "b_dec": 0.1 * W_ND[0]}
    return form(tensors, {"k": 3})


def lab_of(lm: LanguageModel, tokens: TokenStore, site: str, dictionary: Dictionary, **more: Any) -> Lab:
    return Lab(lm, dictionary, site, tokens, **more)


PATHS = [
    ("embed", "layers.1.resid_post"),
    ("layers.0.resid_mid", "layers.2.mlp_in"),
    ("layers.0.mlp_act", "layers.2.mlp_act"),
    ("layers.1.resid_pre", "final"),
]


# ---- derivatives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_equal_finite_differences(name: str, opened: Callable[[str], LanguageModel]) -> None:
    lm = opened(name)
    generator = torch.Generator().manual_seed(4)
    ids_BC = torch.randint(61, (2, 7), generator=generator)
    for early, late in PATHS:
        if early not in lm.sites():
            continue
        size = lm.capture(ids_BC, [early])[early].std()
        v_BCD = size * torch.randn(2, 7, lm.width_of(early), generator=generator, dtype=torch.float64)
        u_BCE = torch.randn(2, 7, lm.width_of(late), generator=generator, dtype=torch.float64)

        def number(y_BCE: Tensor, u_BCE: Tensor = u_BCE) -> Tensor:
            return (u_BCE * y_BCE).sum() + y_BCE.square().mean()

        def moved(step: float, at: str = early, to: str = late, v_BCD: Tensor = v_BCD) -> Tensor:
            return rerun(lm, ids_BC, None, at, to, lambda x: x + step * v_BCD)

        x_BCD, grad_BCD = pull(lm, ids_BC, None, early, late, number)
        torch.testing.assert_close(x_BCD, lm.capture(ids_BC, [early])[early])
        slope = derivative(lambda step: number(moved(step)), name)
        assert float((grad_BCD * v_BCD).sum()) == pytest.approx(float(slope), rel=1e-3, abs=1e-3), (early, late)
        assert float((grad_BCD * v_BCD).abs().sum()) > 0.1
        y_BCE, change_BCE = push(lm, ids_BC, None, early, late, v_BCD, lambda y: 2 * y)
        torch.testing.assert_close(y_BCE, 2 * lm.capture(ids_BC, [late])[late])
        expected_BCE = 2 * derivative(moved, name)
        torch.testing.assert_close(change_BCE, expected_BCE, rtol=0, atol=1e-3 * float(expected_BCE.abs().max()))


def derivative(f: Callable[[float], Tensor], name: str) -> Tensor:
    """At 0, from four points. RMS norms compute in fp32 whatever they are given, ReLU networks have kinks."""
    h = 1e-5 if name.startswith("opt") else 2e-3
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def test_derivatives_leave_the_model_as_it_was(opened: Callable[[str], LanguageModel]) -> None:
    lm, ids_BC = opened("gpt2"), torch.arange(5)[None]
    before = lm.logits(ids_BC)
    pull(lm, ids_BC, None, *PATHS[0], torch.sum)
    push(lm, ids_BC, None, *PATHS[0], torch.ones(1, 5, 16), torch.sin)
    assert torch.equal(lm.logits(ids_BC), before)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in lm.model.parameters())
    with torch.inference_mode():  # a caller's mode does not matter
        assert pull(lm, ids_BC, None, *PATHS[0], torch.sum)[1].abs().sum() > 0


def test_sites_in_the_wrong_order_or_on_other_branches_are_refused(opened: Callable[[str], LanguageModel]) -> None:
    lm, ids_BC = opened("neox-parallel"), torch.arange(5)[None]
    with pytest.raises(UsageError, match="must be a site before"):
        pull(lm, ids_BC, None, "layers.2.mlp_in", "layers.1.mlp_in", torch.sum)
    with pytest.raises(UsageError, match="must be a site before"):
        rerun(lm, ids_BC, None, "layers.1.mlp_in", "layers.1.mlp_in", torch.sin)
    with pytest.raises(UsageError, match="parallel branches"):
        pull(lm, ids_BC, None, "layers.1.attn_out", "layers.1.mlp_act", torch.sum)
    with pytest.raises(UsageError, match="parallel branches"):
        push(lm, ids_BC, None, "layers.1.attn_out", "layers.1.mlp_act", torch.ones(1, 5, 16), torch.sin)
    with pytest.raises(UsageError, match="layers 0 to 2"):
        pull(lm, ids_BC, None, "layers.1.mlp_in", "layers.7.mlp_in", torch.sum)


# ---- connections ------------------------------------------------------------------------------------------------


def by_loops(early: Lab, late: Lab, feature: int) -> tuple[Tensor, Tensor, int]:
    """Sums over the firings of one late feature: what each early one gives, what is lost without it, and how many."""
    width = early.dictionary.width
    given_N, lost_N, fired = torch.zeros(width), torch.zeros(width), 0
    for row in range(early.tokens.n_rows):
        batch = early.tokens.batch(torch.tensor([row]))
        one = Batch(batch.ids_BC, batch.mask_BC)
        early_CN, late_C = early.codes(one)[0], late.codes(one, [feature])[0, :, 0]
        for t in (late_C != 0).nonzero().flatten().tolist():
            fired += 1

            def code(y_BCE: Tensor, t: int = t) -> Tensor:
                return late.dictionary.encode(y_BCE[0])[t, feature]

            _, grad_BCD = pull(early.model, one.ids_BC, one.mask_BC, early.written_site, late.site, code)
            given_N += (early_CN * (grad_BCD[0] @ early.dictionary.W_dec_ND.T)).sum(dim=0)
        for n in range(width):
            change_CD = early_CN[:, n : n + 1] * early.dictionary.W_dec_ND[n]

            def take(x_BCD: Tensor, change_CD: Tensor = change_CD) -> Tensor:
                return x_BCD - change_CD

            y_BCE = rerun(early.model, one.ids_BC, one.mask_BC, early.written_site, late.site, take)
            after_C = late.dictionary.encode(y_BCE[0])[:, feature]
            lost_N[n] += ((late_C - after_C) * (late_C != 0)).sum()
    return given_N, lost_N, fired


KINDS: dict[str, tuple[type[ReluDictionary], type[ReluDictionary], dict[str, Any]]] = {
    "relu": (ReluDictionary, ReluDictionary, {}),
    "topk": (TopKDictionary, TopKDictionary, {}),
    "without bos": (ReluDictionary, ReluDictionary, {"skip_bos": True}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parents_and_children_equal_loops(
    kind: str, lm: LanguageModel, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second, more = KINDS[kind]
    if more:  # an early token stands for BOS
        tokens = token_store(tmp_path, [30, 5, 9, 1, 14], context=12, packed=False)
        tokens.edges = type(tokens.edges)(int(tokens.tokens_T[3]), None)
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 7, 1, form=first), **more)
    late = lab_of(lm, tokens, "layers.2.mlp_act", relu(24, 5, 2, -0.2, second), **more)
    monkeypatch.setattr("monosemy.analysis.circuit_passes.TOKENS_AT_ONCE", {"cpu": 24})  # batches of two rows
    table = [by_loops(early, late, feature) for feature in range(5)]
    for j in range(5):
        given_N, lost_N, fired = table[j]
        if not fired:
            with pytest.raises(UsageError, match="fires in none"):
                parents(late, j, early, **ALL)
            continue
        found = parents(late, j, early, **ALL)
        totals = [abs(edge.total or 0.0) for edge in found.edges]
        assert totals == sorted(totals, reverse=True)
        assert {edge.feature for edge in found.edges} == set(given_N.nonzero().flatten().tolist())
        for edge in found.edges:
            assert edge.firings == fired
            assert edge.total == pytest.approx(float(given_N[edge.feature]), rel=1e-4, abs=1e-5)
            assert edge.ablation * fired == pytest.approx(float(lost_N[edge.feature]), rel=1e-4, abs=1e-4)
    whole = {i: {edge.feature: edge for edge in children(early, i, late, **ALL).edges} for i in range(7)}
    for i in range(7):
        for j, edge in whole[i].items():  # rows without the early feature have late firings that do not count here
            assert edge.total == pytest.approx(float(table[j][0][i]), rel=1e-4, abs=1e-5)
            assert edge.ablation * edge.firings == pytest.approx(float(table[j][1][i]), rel=1e-4, abs=1e-4)
            assert edge.firings <= table[j][2]
    assert sum(len(edges) for edges in whole.values()) > 10


def test_where_everything_is_linear_prediction_and_ablation_are_one(lm: LanguageModel, tokens: TokenStore) -> None:
    """From mlp_act to mlp_out leads one matrix: what early features, their error and their bias give is the whole."""
    reads = relu(24, 9, 1)
    generator = torch.Generator().manual_seed(0)
    linear = LinearDictionary({"W_dec": torch.randn(4, 16, generator=generator), "b_dec": torch.zeros(16)})
    early, late = lab_of(lm, tokens, "layers.1.mlp_act", reads), lab_of(lm, tokens, "layers.1.mlp_out", linear)
    found = parents(late, 2, early, **ALL)
    assert len(found.edges) == 9
    for edge in found.edges:
        assert edge.ablation == pytest.approx(edge.attribution, rel=1e-3, abs=1e-5)
    assert found.correlation == pytest.approx(1, abs=1e-5)
    down = lm.model.model.layers[1].mlp.down_proj  # type: ignore[union-attr, index]
    from_bias = float(down(reads.tensors["b_dec"]) @ linear.W_dec_ND[2])
    batch = tokens.batch(torch.arange(tokens.n_rows))
    codes_BC = late.codes(Batch(batch.ids_BC, batch.mask_BC), [2])[..., 0]
    assert found.error is not None
    parts = sum(edge.attribution or 0.0 for edge in found.edges) + found.error + from_bias
    assert parts == pytest.approx(float(codes_BC.sum() / batch.mask_BC.sum()), rel=1e-4)
    for edge in children(early, 3, late, **ALL).edges:
        assert edge.ablation == pytest.approx(edge.attribution, rel=1e-3, abs=1e-5)


def test_ablation_equals_hooks_set_by_hand(lm: LanguageModel, tokens: TokenStore) -> None:
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 7, 1))
    late = lab_of(lm, tokens, "layers.1.mlp_out", relu(16, 5, 2))
    found = parents(late, 1, early, **ALL)
    edge = found.edges[0]
    batch = tokens.batch(torch.arange(tokens.n_rows))
    layers: Any = lm.model.model.layers  # type: ignore[union-attr]
    outputs: list[Tensor] = []

    def removing(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        codes = early.dictionary.encode(args[0].flatten(0, 1)).view(*args[0].shape[:2], -1)[..., edge.feature]
        return (args[0] - codes[..., None] * early.dictionary.W_dec_ND[edge.feature],)

    reading = layers[1].mlp.register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        lm.model(input_ids=batch.ids_BC)
        handle = layers[0].mlp.down_proj.register_forward_pre_hook(removing)
        lm.model(input_ids=batch.ids_BC)
    handle.remove()
    reading.remove()
    clean_X, after_X = (late.dictionary.encode(output[batch.mask_BC])[:, 1] for output in outputs)
    assert edge.ablation == pytest.approx(float((clean_X - after_X)[clean_X > 0].mean()), rel=1e-4)
    assert edge.firings == int((clean_X > 0).sum())
    fires_BC = late.codes(Batch(batch.ids_BC, batch.mask_BC), [1])[..., 0] > 0
    assert found.tokens == int(batch.mask_BC[fires_BC.any(dim=1)].sum())


def test_a_transcoder_acts_where_it_writes(lm: LanguageModel, tokens: TokenStore) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (6, 16), "b_enc": (6,), "W_dec": (6, 16), "b_dec": (16,), "W_skip": (16, 16)}
    tensors = {name: torch.randn(shape, generator=generator) / 4 for name, shape in shapes.items()}
    through = SkipTranscoderDictionary(tensors, {"k": 2})
    early = lab_of(lm, tokens, "layers.0.mlp_in", through, target="layers.0.mlp_out")
    late = lab_of(lm, tokens, "layers.1.mlp_act", relu(24, 3, 5))
    found = parents(late, 0, early, **ALL)
    given_N, lost_N, fired = by_loops(early, late, 0)
    for edge in found.edges:
        assert edge.total == pytest.approx(float(given_N[edge.feature]), rel=1e-4, abs=1e-5)
        assert edge.ablation * fired == pytest.approx(float(lost_N[edge.feature]), rel=1e-4, abs=1e-4)
    with pytest.raises(UsageError, match=r"acts at layers\.0\.mlp_out"):
        parents(lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 3, 5)), 0, early)


def test_only_rows_where_the_feature_fires_are_looked_at(lm: LanguageModel, tokens: TokenStore) -> None:
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 7, 1))
    batch = tokens.batch(torch.arange(tokens.n_rows))
    rows, rare = Batch(batch.ids_BC, batch.mask_BC), relu(24, 1, 2)
    x_BCD = lm.capture(batch.ids_BC, ["layers.2.mlp_act"])["layers.2.mlp_act"]
    z_BC = (x_BCD @ rare.tensors["W_enc"][0]).masked_fill(~batch.mask_BC, -torch.inf)
    rare.tensors["b_enc"][0] = -z_BC.amax(dim=1).median()  # the median row and those below are silent
    late = lab_of(lm, tokens, "layers.2.mlp_act", rare)
    assert int((late.codes(rows) > 0).flatten(1).any(dim=1).sum()) == 2 < tokens.n_rows
    found = parents(late, 0, early, top=2, silent=0)
    assert (found.rows, found.silent_rows, len(found.edges)) == (2, 3, 2)
    one = parents(late, 0, early, rows=1)
    assert (one.rows, one.silent_rows) == (1, 1)


# ---- what is kept silent ----------------------------------------------------------------------------------------


def released_by_loops(early: Lab, late: Lab, number: int, feature: int) -> tuple[float, float, int, set[int]]:
    """Over the tokens on which a late feature fires only without an early one: codes there, codes foreseen, how many,
    and of which documents."""
    gained, foreseen, tokens, documents = 0.0, 0.0, 0, set()
    W_D, b = (late.dictionary.tensors[name][feature] for name in ("W_enc", "b_enc"))
    threshold = float(late.dictionary.tensors.get("threshold", torch.zeros(feature + 1))[feature])
    for row in range(early.tokens.n_rows):
        batch = early.tokens.batch(torch.tensor([row]))
        one = Batch(batch.ids_BC, batch.mask_BC)
        codes_C = early.codes(one)[0, :, number]
        change_BCD = (codes_C[:, None] * early.dictionary.W_dec_ND[number])[None]
        sites = early.model, one.ids_BC, one.mask_BC, early.written_site, late.site

        def take(x_BCD: Tensor, change_BCD: Tensor = change_BCD) -> Tensor:
            return x_BCD - change_BCD

        y_BCE = rerun(*sites, take)
        before_C, after_C = late.codes(one)[0, :, feature], late.dictionary.encode(y_BCE[0])[:, feature]
        for t in ((before_C == 0) & (after_C != 0) & late.counts(one)[0]).nonzero().flatten().tolist():

            def z(y_BCE: Tensor, t: int = t) -> Tensor:
                return y_BCE[0, t] @ W_D + b

            _, grad_BCD = pull(*sites, z)
            without = float(z(late.x(one))) - float((grad_BCD * change_BCD).sum())
            gained, foreseen, tokens = (
                gained + float(after_C[t]),
                foreseen + without * (without > threshold),
                tokens + 1,
            )
            documents.add(int(early.tokens.documents_of(batch.offset_B + t)))
    return gained, foreseen, tokens, documents


def jump(d_in: int, width: int, seed: int, bias: float) -> Dictionary:
    tensors = relu(d_in, width, seed, bias).tensors
    return JumpReluDictionary({**tensors, "threshold": torch.linspace(0.1, 0.5, width)})


LATE_KINDS: dict[str, Callable[[], Dictionary]] = {
    "relu": lambda: relu(24, 3, 2, -0.3),
    "topk": lambda: relu(24, 3, 2, -0.2, TopKDictionary),
    "jumprelu": lambda: jump(24, 3, 2, -0.2),
}


@pytest.mark.parametrize("kind", LATE_KINDS)
def test_what_is_kept_silent_equals_loops(
    kind: str, lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed rows, so that a row holds several documents and a document lies in several rows."""
    tokens = token_store(tmp_path, [13, 5, 6, 1, 9], context=8)
    monkeypatch.setattr("monosemy.analysis.circuit_passes.TOKENS_AT_ONCE", {"cpu": 16})
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 3, 1, 0.5))
    early.dictionary.tensors["W_dec"] *= 5
    late = lab_of(lm, tokens, "layers.2.mlp_act", LATE_KINDS[kind]())
    expected = {(i, j): released_by_loops(early, late, i, j) for i in range(3) for j in range(3)}
    assert sum(tokens > 0 for _, _, tokens, _ in expected.values()) > 3

    def check(edge: Edge, i: int, j: int) -> None:
        gained, foreseen, count, documents = expected[i, j]
        assert (edge.firings, edge.documents) == (count, len(documents))
        assert edge.ablation * count == pytest.approx(-gained, rel=1e-4, abs=1e-5)
        assert edge.attribution is not None
        assert edge.attribution * count == pytest.approx(-foreseen, rel=1e-3, abs=1e-4)

    for i in range(3):
        found = [edge for edge in children(early, i, late, **SILENT).edges if edge.silent]
        assert {edge.feature for edge in found} == {j for j in range(3) if expected[i, j][2]}
        gains = [-edge.ablation * edge.firings for edge in found]
        assert gains == sorted(gains, reverse=True)
        for edge in found:
            check(edge, i, edge.feature)
    batch = tokens.batch(torch.arange(tokens.n_rows))
    rows = Batch(batch.ids_BC, batch.mask_BC)
    for j in range(3):
        if not any(expected[i, j][2] for i in range(3)) and not late.codes(rows, [j]).any():
            with pytest.raises(UsageError, match="fires in none"):
                parents(late, j, early, **SILENT)
            continue
        found = [edge for edge in parents(late, j, early, **SILENT).edges if edge.silent]
        most = max(range(3), key=lambda i: expected[i, j][0])
        assert [edge.feature for edge in found][:1] == [most][: len(found)]
        for edge in found:
            check(edge, edge.feature, j)


def test_a_feature_that_one_other_silences_everywhere_is_found(lm: LanguageModel, tokens: TokenStore) -> None:
    """mlp_act leads to mlp_out by one matrix, so what the late feature would be without the early one is known."""
    early = lab_of(lm, tokens, "layers.1.mlp_act", relu(24, 6, 1))
    down = cast(Any, lm.model).model.layers[1].mlp.down_proj
    batch = tokens.batch(torch.arange(tokens.n_rows))
    rows = Batch(batch.ids_BC, batch.mask_BC)
    with torch.no_grad():
        pushed_D = down(early.dictionary.W_dec_ND[3])
    reads_D = -pushed_D / pushed_D.norm()
    y_XD = lm.capture(batch.ids_BC, ["layers.1.mlp_out"])["layers.1.mlp_out"][batch.mask_BC]
    most = (y_XD @ reads_D).max()
    tensors = {"W_enc": reads_D[None], "b_enc": (-most - 0.01)[None], "W_dec": reads_D[None].clone()}
    late = lab_of(lm, tokens, "layers.1.mlp_out", ReluDictionary(tensors))
    assert not late.codes(rows).any()
    code_X = early.codes(rows, [3])[batch.mask_BC][:, 0]
    without_X = torch.relu(y_XD @ reads_D - most - 0.01 + pushed_D.norm() * code_X)
    found = parents(late, 0, early, silent=1, rows=100)
    assert (found.rows, found.tokens, found.silent_rows, found.error) == (0, 0, tokens.n_rows, None)
    (edge,) = found.edges
    assert (edge.feature, edge.silent, edge.firings) == (3, True, int((without_X > 0).sum()))
    assert edge.ablation == pytest.approx(-float(without_X[without_X > 0].mean()), rel=1e-4)
    assert edge.attribution == pytest.approx(edge.ablation, rel=1e-3)
    (same,) = children(early, 3, late, rows=100).edges
    assert (same.feature, same.silent) == (0, True)
    assert same.ablation == pytest.approx(edge.ablation)
    with pytest.raises(UsageError, match="fires in none"):
        parents(late, 0, early, silent=0)


def test_intervals_come_from_documents_drawn_anew(lm: LanguageModel, tmp_path: Path) -> None:
    tokens = token_store(tmp_path, [30, 5, 9, 14, 21, 8], context=12)
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 3, 1))
    late = lab_of(lm, tokens, "layers.2.mlp_act", relu(24, 3, 2, -0.2))
    found = {edge.feature: edge for edge in parents(late, 1, early, **ALL).edges}
    lost, fired = torch.zeros(3, 6), torch.zeros(6)
    for row in range(tokens.n_rows):
        batch = tokens.batch(torch.tensor([row]))
        one = Batch(batch.ids_BC, batch.mask_BC)
        before_C, codes_CN = late.codes(one, [1])[0, :, 0], early.codes(one)[0]
        document_C = tokens.documents_of(batch.offset_B + torch.arange(len(before_C)))
        fired += torch.bincount(document_C[before_C != 0], minlength=6)
        for n in range(3):
            change_CD = codes_CN[:, n : n + 1] * early.dictionary.W_dec_ND[n]

            def take(x_BCD: Tensor, change_CD: Tensor = change_CD) -> Tensor:
                return x_BCD - change_CD

            y_BCE = rerun(lm, one.ids_BC, one.mask_BC, early.site, late.site, take)
            loss_C = (before_C - late.dictionary.encode(y_BCE[0])[:, 1]) * (before_C != 0)
            lost[n] += torch.zeros(6).index_add_(0, document_C, loss_C)
    here = fired > 0
    assert int(here.sum()) > 2
    for n, edge in found.items():
        assert edge.documents == int(here.sum())
        assert (edge.low, edge.high) == pytest.approx(
            ratio_interval(lost[n][here], fired[here], "circuit", n), rel=1e-3
        )
        assert edge.low is not None
        assert edge.high is not None
        assert edge.low <= edge.ablation <= edge.high
    single = parents(late, 1, early, **ALL | {"rows": 1, "search": 1})
    assert {(edge.low, edge.high) for edge in single.edges if edge.documents == 1} <= {(None, None)}


def test_what_cannot_be_asked_is_refused(
    lm: LanguageModel, tokens: TokenStore, opened: Callable[[str], LanguageModel], tmp_path: Path
) -> None:
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 7, 1))
    dead = lab_of(lm, tokens, "layers.2.mlp_act", relu(24, 5, 2, -1000.0))
    with pytest.raises(UsageError, match="fires in none of the 5 rows"):
        parents(dead, 0, early)
    with pytest.raises(UsageError, match="fires in none"):
        children(lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 7, 1, -1000.0)), 0, dead)
    assert children(early, 0, dead).edges == ()
    for number in (-1, 5):
        with pytest.raises(UsageError, match="must be from 0 to 4"):
            parents(dead, number, early)
    with pytest.raises(UsageError, match="exchange them"):
        parents(early, 0, dead)
    with pytest.raises(UsageError, match="different models"):
        parents(lab_of(opened("gpt2"), tokens, "layers.2.mlp_act", relu(64, 5, 2)), 0, early)
    other = token_store(tmp_path, [30, 5], context=8)
    with pytest.raises(UsageError, match="different tokens"):
        parents(lab_of(lm, other, "layers.2.mlp_act", relu(24, 5, 2)), 0, early)
    with pytest.raises(UsageError, match="`top`"):
        CircuitSettings(top=0)
    with pytest.raises(UsageError, match="`silent`"):
        CircuitSettings(silent=-1)
    with pytest.raises(UsageError, match="unknown settings"):
        parents(dead, 0, early, most=3)


@pytest.mark.parametrize(
    ("low", "high", "silent", "how"),
    [
        (0.1, 0.3, False, "drives"),
        (-0.3, -0.1, False, "lowers"),
        (-0.1, 0.5, False, "unclear"),
        (0.0, 0.4, False, "unclear"),
        (-0.4, 0.0, False, "unclear"),
        (None, None, False, "unclear"),
        (-0.4, -0.2, True, "keeps silent"),
        (None, None, True, "keeps silent"),
    ],
)
def test_an_edge_says_what_its_interval_says(low: float | None, high: float | None, silent: bool, how: str) -> None:
    effect = 0.2 if low is None or high is None else (low + high) / 2
    assert Edge(0, 1.0, effect, low, high, 9, 3, silent).how == how


def test_the_result_tabulates_plots_and_saves(lm: LanguageModel, tokens: TokenStore, tmp_path: Path) -> None:
    early = lab_of(lm, tokens, "layers.0.mlp_act", relu(24, 7, 1))
    late = lab_of(lm, tokens, "layers.2.mlp_act", relu(24, 5, 2))
    found = parents(late, 1, early)
    assert found.table().columns[:5] == ("feature", "attribution", "ablation", "low", "high")
    assert [row[0] for row in found.table().rows] == [edge.feature for edge in found.edges]
    told = found.table().columns.index("how")
    assert [row[told] for row in found.table().rows] == [edge.how for edge in found.edges]
    assert [chart.name for chart in found.charts()] == ["edges", "verified"]
    assert all(f", in {found.rows} rows" in chart.title for chart in found.charts())
    bars = found.charts()[0].marks[1]
    assert isinstance(bars, Bars)
    spans = [(edge.low, edge.high) for edge in found.edges]
    assert list(zip(bars.low, bars.high, strict=True)) == spans
    assert any(low is not None for low, _ in spans)
    data = found.data()
    assert (data["analysis"], data["direction"], data["edges"][0]["feature"]) == (
        "circuit",
        "parents",
        found.edges[0].feature,
    )
    names = {path.name for path in found.save(tmp_path).iterdir()}
    assert names == {"circuit.json", "circuit.csv", "circuit-edges.svg", "circuit-verified.svg"}


def test_on_a_real_model_prediction_and_ablation_agree(tmp_path: Path) -> None:
    """Neurons of layer 1 as features, and what feeds random features of layer 2."""
    model = LanguageModel.load(shared("models/stories260K"), device="cpu")
    text = shared("text/tinystories.jsonl.gz")
    store = tokenize(str(text), tokenizer=str(shared("models/stories260K")), out=tmp_path / "tokens", context=64)
    width = model.width_of("layers.1.mlp_act")
    neurons = LinearDictionary({"W_dec": torch.eye(width), "b_dec": torch.zeros(width)})
    early = lab_of(model, store, "layers.1.mlp_act", neurons, skip_bos=True)
    late = lab_of(model, store, "layers.2.mlp_act", relu(model.width_of("layers.2.mlp_act"), 4, 3), skip_bos=True)
    found: CircuitEdges = parents(late, 0, early, rows=8, search=8, top=20)
    assert found.correlation is not None
    assert found.correlation > 0.9
    for edge in found.edges:
        assert edge.low is not None
        assert edge.high is not None
        assert edge.low < edge.ablation < edge.high
