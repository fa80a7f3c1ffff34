"""Model + tokens → the activations of one site, or of several in one pass, on disk, in the order of the tokens.

The forward pass ends at the last site: no later layer and no head is computed. Packed rows run without an attention
mask, padding is left out. Rows go through the network in the same batches whether a harvest was killed or not, so a
resumed one ends with the bytes of an uninterrupted one. Each of several sites gets an ordinary store of its own, the
one that a harvest of it alone makes; all are half-written side by side until the pass is over.

Shapes: R token rows, B rows of a batch, C = context, D = width of the site, X activation rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from monosemy.artifact import make
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.data.tokens import TokenBatch, TokenStore
from monosemy.draft import MANIFEST, Draft
from monosemy.files import write_whole
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import DTYPES, Progress, UsageError, full_rate_products, in_batches, pick_dtype, settings_of

# Tokens a batch: on a CPU what stays in the cache, on a GPU what fills it.
BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}

AnyModel = str | Path | LanguageModel
AnyTokens = str | Path | TokenStore


@dataclass(frozen=True)
class HarvestSettings:
    """Which activations to keep, and how."""

    site: str | tuple[str, ...]
    """Where in the model: embed, layers.I.resid_pre|attn_out|resid_mid|mlp_in|mlp_act|mlp_out|resid_post, or final.
    Several are read in one pass, each into a folder of its name."""
    dtype: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Of the rows on disk."""
    model_dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the model's weights and products; bf16 is several times faster and has 3 digits."""
    max_tokens: int | None = None
    """Keep so many rows (default: all), from training and held-out text in the proportion they have."""
    skip_bos: bool = False
    """Leave out the positions of BOS, where activations are often a hundred times larger."""
    batch_rows: int | None = None
    """Token rows a forward pass (default: 2048 tokens on a CPU, 32,768 on a GPU)."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        if not 0 < len(self.sites) == len(set(self.sites)):
            raise UsageError(f"`site` (={', '.join(self.sites)}) must name at least one site, and each once")
        pick_dtype(self.dtype)
        if self.model_dtype not in ("fp32", "bf16"):
            raise UsageError(f"`model_dtype` (={self.model_dtype!r}) must be fp32 or bf16")
        for name in ("max_tokens", "batch_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` (={value}) must be at least 1")

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, however many."""
        return (self.site,) if isinstance(self.site, str) else tuple(self.site)


def harvest(
    model: AnyModel, tokens: AnyTokens, *, out: str | Path, settings: HarvestSettings | None = None, **options: Any
) -> ActivationStore:
    """Run `model` over `tokens` and store the activations of one site in the folder `out`.

    `options` are fields of HarvestSettings. A model that is open already keeps its device and dtype. Raises UsageError
    if the model has no such site, the tokens are not its own, or an activation is NaN, infinite or too large to store.
    """
    settings = settings or settings_of(HarvestSettings, options)
    if len(settings.sites) > 1:
        raise UsageError(f"`site` (={', '.join(settings.sites)}) names several; call `harvest_sites` for those")
    [store] = _stores({settings.sites[0]: Path(out)}, model, tokens, settings).values()
    return store


def harvest_sites(
    model: AnyModel, tokens: AnyTokens, *, out: str | Path, settings: HarvestSettings | None = None, **options: Any
) -> dict[str, ActivationStore]:
    """Run `model` over `tokens` once and store the activations of each site in its own folder, `out`/SITE.

    The stores by site; they hold the same tokens, row by row. Options and errors are those of `harvest`.
    """
    settings = settings or settings_of(HarvestSettings, options)
    if (Path(out) / MANIFEST).exists():
        raise UsageError(f"{out}: a finished artifact, where a folder of stores is to be; choose another --out")
    return _stores({site: Path(out) / site for site in settings.sites}, model, tokens, settings)


def _stores(
    places: Mapping[str, Path], model: AnyModel, tokens: AnyTokens, settings: HarvestSettings
) -> dict[str, ActivationStore]:
    """The store of each site at its place; those that are not finished yet are written in one pass."""
    store = TokenStore.open(tokens)
    if settings.skip_bos and store.edges.bos is None:
        raise UsageError(f"`skip_bos` (=True): {store.artifact.path} holds no BOS; leave it out")
    if not isinstance(model, LanguageModel):
        model = LanguageModel.load(model, settings.device, settings.model_dtype)
    for site in places:
        model.check_site(site)
    model.check_tokens(store)
    config = {
        "dtype": settings.dtype,
        "model_dtype": next(name for name, dtype in DTYPES.items() if dtype == model.dtype),
        "max_tokens": settings.max_tokens,
        "skip_bos": settings.skip_bos,
    }
    parents = {"model": model.as_parent(), "tokens": store.artifact.as_parent()}
    found: dict[str, ActivationStore] = {}
    infos: dict[str, dict[str, Any]] = {}

    def open_next(waiting: Sequence[str], drafts: Mapping[str, Draft]) -> None:
        """Open the drafts one inside the other, and write them all when the last is open."""
        if not waiting:
            infos.update(_write(drafts, model, store, settings) if drafts else {})
            return
        site, rest = waiting[0], waiting[1:]

        def write(draft: Draft) -> dict[str, Any]:
            open_next(rest, {**drafts, site: draft})
            return infos[site]

        found[site] = ActivationStore(make(places[site], "activations", {"site": site, **config}, parents, write))
        if site not in infos:  # it was there already
            open_next(rest, drafts)

    # Those that exist first: if one is another than is asked for, no draft of the others has been opened.
    open_next(sorted(places, key=lambda site: not places[site].exists()), {})
    return {site: found[site] for site in places}


@dataclass(frozen=True)
class _Plan:
    """Which token rows to run, and how many of each row's activations to keep."""

    rows_R: torch.Tensor
    keep_R: torch.Tensor
    n_train: int

    def batches(self, batch_rows: int, done: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Rows and counts of each batch not wholly among the first `done` activations, and how many come before it."""
        before = 0
        for chunk in in_batches(range(len(self.rows_R)), batch_rows):
            keep_B = self.keep_R[chunk]
            count = int(keep_B.sum())
            if before + count > done:
                yield self.rows_R[chunk], keep_B, before
            before += count


def _write(
    drafts: Mapping[str, Draft], network: LanguageModel, store: TokenStore, settings: HarvestSettings
) -> dict[str, dict[str, Any]]:
    """Fill the draft of each site; what belongs into its manifest."""
    plan = _plan(store, settings)
    dtype = pick_dtype(settings.dtype)
    writers = {site: ActivationWriter(draft, network.width_of(site), dtype) for site, draft in drafts.items()}
    rows_of = _batch_rows(drafts, network, store, settings)
    for rows in sorted(set(rows_of.values())):  # one number, but for what was left of harvests that were apart
        together = {site: writer for site, writer in writers.items() if rows_of[site] == rows}
        _read(together, plan, rows, network, store, store.edges.bos if settings.skip_bos else None)
    return {site: writer.finish(plan.n_train) for site, writer in writers.items()}


def _read(
    writers: Mapping[str, ActivationWriter],
    plan: _Plan,
    batch_rows: int,
    network: LanguageModel,
    store: TokenStore,
    bos: int | None,
) -> None:
    """One pass over the token rows, from the first activation that any writer lacks."""
    total = int(plan.keep_R.sum())
    done = {site: min(writer.rows_written, total) for site, writer in writers.items()}
    first = min(done.values())
    with full_rate_products(network.device), Progress("harvest", total, start=first, unit="tokens") as bar:
        for rows_B, keep_B, before in plan.batches(batch_rows, first):
            batch = store.batch(rows_B)
            found = network.capture(batch.ids_BC, list(writers), batch.mask_BC)
            kept_BC = _kept(batch, keep_B, bos)
            offset_BC = batch.offset_B[:, None] + torch.arange(batch.ids_BC.shape[1])
            offset_X = offset_BC[kept_BC]
            for site, writer in writers.items():
                x_BCD, skip = found[site], max(done[site] - before, 0)
                x_XD = x_BCD.flatten(0, 1) if kept_BC.all() else x_BCD[kept_BC.to(x_BCD.device)]
                writer.add(x_XD[skip:], offset_X[skip:])
            bar.advance(len(offset_X) - max(first - before, 0))


def _plan(store: TokenStore, settings: HarvestSettings) -> _Plan:
    """Training rows, then held-out rows; `max_tokens` is shared between the two as the text is."""
    counts_R = _counts(store, settings.skip_bos)
    n_train_rows = len(store.train_rows)
    train, all_of_it = int(counts_R[:n_train_rows].sum()), int(counts_R.sum())
    limit = min(settings.max_tokens or all_of_it, all_of_it)
    keep_train = round(limit * train / all_of_it) if all_of_it else 0
    limits = (keep_train, limit - keep_train)
    keep_R = torch.cat([_first(counts_R[:n_train_rows], limits[0]), _first(counts_R[n_train_rows:], limits[1])])
    rows_R = keep_R.nonzero()[:, 0]
    return _Plan(rows_R, keep_R[rows_R], keep_train)


def _counts(store: TokenStore, skip_bos: bool) -> torch.Tensor:
    """How many activations each token row has: its tokens, without BOS if that is left out."""
    if not skip_bos:
        return store.row_lengths_R.long()
    bos_places = np.flatnonzero(store.tokens_T.numpy() == store.edges.bos)
    starts, lengths = store.row_starts_R.numpy(), store.row_lengths_R.numpy()
    n_bos_R = np.searchsorted(bos_places, starts + lengths) - np.searchsorted(bos_places, starts)
    return torch.from_numpy(lengths - n_bos_R)


def _first(counts_R: torch.Tensor, limit: int) -> torch.Tensor:
    """The counts, cut where their sum reaches `limit`."""
    before_R = counts_R.cumsum(0) - counts_R
    return (limit - before_R).clamp(min=0).minimum(counts_R)


def _kept(batch: TokenBatch, keep_B: torch.Tensor, bos: int | None) -> torch.Tensor:
    """Which positions are stored: the first `keep_B` of each row's tokens, BOS not counted if it is left out."""
    wanted_BC = batch.mask_BC if bos is None else batch.mask_BC & (batch.ids_BC != bos)
    return wanted_BC & (wanted_BC.cumsum(1) <= keep_B[:, None])


def _batch_rows(
    drafts: Mapping[str, Draft], network: LanguageModel, store: TokenStore, settings: HarvestSettings
) -> dict[str, int]:
    """Token rows a forward pass; what a killed harvest used, since products differ in their last bit with the shape."""
    notes = {site: draft.file("scratch/batch.json") for site, draft in drafts.items()}
    found = {site: int(json.loads(note.read_text())) for site, note in notes.items() if note.exists()}
    most = int(store.row_lengths_R.max())
    usual = max(1, BATCH_TOKENS.get(network.device.type, BATCH_TOKENS["cuda"]) // most)
    rows = next(iter(found.values()), settings.batch_rows or usual)
    for site, note in notes.items():
        if site not in found:
            write_whole(note, json.dumps(rows).encode())
    return {site: found.get(site, rows) for site in drafts}
