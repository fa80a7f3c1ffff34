"""The stage dictionaries + model + tokens → features: what each feature of one dictionary is, ready to be shown.

One pass over the tokens for all features: counts, histogram and examples (`examples.py`); then the tokens that each
direction writes (`logits.py`), and its largest cosine with the same dictionary from another seed (S1's MCS).

The artifact: `features.sqlite` (tables `feature`, `document`, the documents that occur in examples, and `token`, the
tokens that occur); `tokens.safetensors`, which features fire on which tokens (`TokenTable.lists`);
`examples.safetensors`, for each group (`feature.GROUPS`) `{group}_offset` int64 and `{group}_document` int32 [N, E]
(−1: no example), `{group}_tokens` int32 (−1: outside the row) and `{group}_values` fp32 [N, E, W];
`histogram.safetensors` with `edges` and `counts`; `logits.safetensors` where the site writes logits; the tokenizer.

Shapes: N features, E examples of a group, W = window.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monosemy.analysis.examples import Best, SampledExamples, SilentExamples, TopExamples, into_groups
from monosemy.analysis.feature import Example, Feature, FeatureIndex
from monosemy.analysis.feature_table import write_tables
from monosemy.analysis.firings import FiringCounts, Window
from monosemy.analysis.logits import extreme_tokens
from monosemy.analysis.scan import rows_within, scan, tokens_around
from monosemy.analysis.texts import TokenTexts
from monosemy.analysis.token_table import TokenTable
from monosemy.analysis.uniform import UniformExamples
from monosemy.artifact import make
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.store import DictionaryStore
from monosemy.draft import SCRATCH, Draft
from monosemy.files import save_tensors
from monosemy.metrics.recovery import mcs
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, settings_of

__all__ = ["Example", "Feature", "FeatureIndex", "FeatureSettings", "features"]

NOT_CONTENT = ("batch_rows", "device")  # settings that change how fast, not what
FEATURES_AT_ONCE = 2048


@dataclass(frozen=True)
class FeatureSettings:
    """What is kept of each feature."""

    top: int = 20
    """Strongest examples, one a document."""
    uniform: int = 8
    """Bins of equal width between the smallest and the largest firing, one example of each."""
    quantiles: int = 5
    """Groups of equal size, by strength, in a uniform sample of the firings."""
    per_quantile: int = 3
    """Examples of each group."""
    random: int = 5
    """Windows in which the feature does not fire."""
    before: int = 24
    """Tokens shown before a peak."""
    after: int = 8
    """Tokens shown after it."""
    n_logits: int = 10
    """Tokens whose logits the feature raises most, and as many that it lowers most."""
    n_tokens: int = 10
    """Tokens on which the feature fires, in each list of them."""
    n_token_features: int = 20
    """Features that fire on a token, in each list of them."""
    max_tokens: int | None = None
    """Look at no more tokens than these, in whole rows; None: all."""
    batch_rows: int | None = None
    """Rows of a forward pass; None: what suits the device. It does not change what is found."""
    seed: int = 0
    """Of the sampled examples."""
    device: str = "auto"
    """Where a model that is not open yet runs: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        numbers = ("top", "uniform", "quantiles", "per_quantile", "random", "n_logits", "n_tokens", "n_token_features")
        for name in (*numbers, "max_tokens", "batch_rows", "before", "after"):
            value, least = getattr(self, name), 0 if name in ("before", "after") else 1
            if value is not None and value < least:
                raise UsageError(f"`{name}` (={value}) must be at least {least}")

    @property
    def window(self) -> Window:
        """The window around a peak."""
        return Window(self.before, self.after)


def features(
    dictionaries: str | Path | DictionaryStore,
    *,
    member: int,
    model: str | Path | LanguageModel,
    tokens: str | Path | TokenStore,
    out: str | Path,
    settings: FeatureSettings | None = None,
    **options: Any,
) -> FeatureIndex:
    """Index the features of dictionary number `member` over `tokens` into the artifact `out`.

    `options` are fields of FeatureSettings. Raises UsageError if the grid has no such member or no site, or
    dictionary, model and tokens do not fit each other.
    """
    settings = settings or settings_of(FeatureSettings, options)
    grid, store = DictionaryStore.open(dictionaries), TokenStore.open(tokens)
    grid.directions(member)  # raises where there is none of that number
    network = LanguageModel.load(model, settings.device) if isinstance(model, str | Path) else model
    site = fitting_site(grid, network, store)
    content = {name: value for name, value in asdict(settings).items() if name not in NOT_CONTENT}
    parents = {name: each.as_parent() for name, each in
               (("dictionaries", grid.artifact), ("model", network), ("tokens", store.artifact))}  # fmt: skip

    def write(draft: Draft) -> dict[str, Any]:
        return _write(draft, grid, member, network, store, site, settings)

    config = {"member": member, "model_dtype": str(network.dtype), **content}
    return FeatureIndex(make(out, "features", config, parents, write))


def fitting_site(grid: DictionaryStore, model: LanguageModel, store: TokenStore) -> str:
    """The site of the grid. Raises UsageError where grid, model and tokens do not go together."""
    if grid.site is None:
        raise UsageError(
            f"{grid.artifact.path}: rows of no single site of a model (a world's, or several sites'), so features "
            f"cannot be looked for in text; train on activations that `harvest` made of one site"
        )
    if grid.model_id is not None and grid.model_id != model.as_parent().id:
        raise UsageError(
            f"model (={model.as_parent().path}): not the one whose activations {grid.artifact.path} was trained on; "
            f"name that one with --model"
        )
    model.check_site(grid.site)
    model.check_tokens(store)
    if model.width_of(grid.site) != grid.d_in:
        raise UsageError(
            f"{grid.artifact.path}: dictionaries of width d_in = {grid.d_in}, and {grid.site} of this model is "
            f"{model.width_of(grid.site)} wide; name the model that the activations came from"
        )
    return grid.site


def _write(
    draft: Draft,
    grid: DictionaryStore,
    member: int,
    model: LanguageModel,
    store: TokenStore,
    site: str,
    settings: FeatureSettings,
) -> dict[str, Any]:
    dictionary, rows = grid.dictionary(member, model.device), rows_within(store, settings.max_tokens)
    n_tokens, shape = store.count_tokens(rows), (dictionary.width, settings.window, model.device)
    counts = FiringCounts(dictionary.width, model.device)
    top = TopExamples(*shape, size=settings.top, doc_starts=store.doc_starts_D)
    uniform = UniformExamples(*shape, bins=settings.uniform, seed=settings.seed)
    sampled = SampledExamples(*shape, size=settings.quantiles * settings.per_quantile, seed=settings.seed)
    silent = SilentExamples(*shape, size=settings.random, seed=settings.seed, n_tokens=n_tokens)
    skip = store.edges.bos if grid.skip_bos else None
    table = TokenTable(dictionary.width, store.vocab_size, store.tokens_T, draft.file(f"{SCRATCH}/runs").parent)
    collectors = counts, top, uniform, sampled, silent, table
    scan(model, dictionary, store, site, rows, collectors, settings.batch_rows, skip)

    sibling = next(iter(grid.siblings(member, differ="seed")), None)
    other_seed = None if sibling is None else mcs(grid.directions(member), grid.directions(sibling))
    groups = {
        "top": _kept(top.best),
        "uniform": uniform.drawn(),
        "quantile": into_groups(sampled.best, settings.quantiles),
        "random": _kept(silent.best),
    }
    documents = _named(_write_examples(draft, groups, store, settings.window), store)
    lists = table.lists(settings.n_tokens, settings.n_token_features)
    save_tensors(draft.file("tokens.safetensors"), lists)
    _write_tables(draft, counts, top.best, n_tokens, other_seed, documents, lists, TokenTexts(store.tokenizer))
    edges, counts_NH = counts.histogram()
    save_tensors(draft.file("histogram.safetensors"), {"edges": edges, "counts": counts_NH})
    written = grid.artifact.info.get("target_site", site)  # a transcoder's features act there
    logits = extreme_tokens(model, written, dictionary.W_dec_ND, settings.n_logits, store.vocab_size)
    if logits is not None:
        save_tensors(draft.file("logits.safetensors"), logits)
    own_tokenizer = store.artifact.path / "tokenizer" / "tokenizer.json"
    shutil.copyfile(own_tokenizer, draft.file("tokenizer/tokenizer.json"))
    return {
        "n_features": dictionary.width,
        "d_in": dictionary.d_in,
        "site": site,
        "n_tokens": n_tokens,
        "detection_limit": 1 / n_tokens,
        "n_dead": int((counts.count_N == 0).sum()),
        "mcs_sibling": sibling,
        "logits": logits is not None,
    }


def _kept(best: Best) -> tuple[torch.Tensor, torch.Tensor]:
    return best.offset_NE, best.values_NEW


def _write_examples(
    draft: Draft, groups: dict[str, tuple[torch.Tensor, torch.Tensor]], store: TokenStore, window: Window
) -> list[int]:
    """Write the examples; gives the numbers of the documents that occur in them."""
    tensors: dict[str, torch.Tensor] = {}
    for name, (offset_NE, values_NEW) in groups.items():
        offset_NE = offset_NE.cpu().contiguous()
        document_NE = torch.where(offset_NE >= 0, store.documents_of(offset_NE), -1)
        tokens = [tokens_around(store, offset_BE, window) for offset_BE in torch.split(offset_NE, FEATURES_AT_ONCE)]
        tensors[f"{name}_offset"], tensors[f"{name}_document"] = offset_NE, document_NE.int()
        tensors[f"{name}_tokens"], tensors[f"{name}_values"] = torch.cat(tokens), values_NEW
    save_tensors(draft.file("examples.safetensors"), tensors)
    occurring = torch.unique(torch.cat([tensors[f"{name}_document"].flatten() for name in groups]))
    return [number for number in occurring.tolist() if number >= 0]


def _named(documents: list[int], store: TokenStore) -> list[tuple[int, str, int]]:
    """Number, name and first place in the token stream."""
    names = store.document_names()
    return [(number, names[number], int(store.doc_starts_D[number])) for number in documents]


def _write_tables(
    draft: Draft,
    counts: FiringCounts,
    top: Best,
    n_tokens: int,
    other_seed: torch.Tensor | None,
    documents: list[tuple[int, str, int]],
    lists: dict[str, torch.Tensor],
    texts: TokenTexts,
) -> None:
    count_N = counts.count_N.cpu()
    peak_N = top.values_NEW[:, 0, top.window.before].cpu()  # 0 where there is no example
    mean_N = (counts.sum_N.cpu() / count_N.clamp_min(1)).float()  # fp32: the order of a float64 sum shows nowhere
    columns = [
        range(len(count_N)),
        (count_N.double() / n_tokens).tolist(),
        count_N.tolist(),
        peak_N.tolist(),
        mean_N.tolist(),
        (count_N == 0).int().tolist(),
        [None] * len(count_N) if other_seed is None else other_seed.tolist(),
        [None if token < 0 else texts.of(token) for token in lists["frequent_token"][:, 0].tolist()],
    ]
    tokens = [(token, texts.of(token), int(lists["seen"][token])) for token in lists["seen"].nonzero()[:, 0].tolist()]
    write_tables(draft.file("features.sqlite"), zip(*columns, strict=True), documents, tokens)
