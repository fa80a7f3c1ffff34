"""One interface over language models: read any site, replace it, take logits and losses.

The network itself stays the Hugging Face module it was; sites are found by structure (`sites.py`) and reached with
hooks that live for one forward pass. `capture` stops at the last site wanted, so what lies behind it is not computed.

Shapes: B rows, C = context, D = width of a site, V = vocabulary, N directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from monosemy.artifact import Parent
from monosemy.data.tokens import TokenStore
from monosemy.models.blocks import ModulePaths, is_linear
from monosemy.models.directions import logits_along, stream_scale
from monosemy.models.hooks import Edit, Place, hooked, without_cache
from monosemy.models.loading import Opened, open_model
from monosemy.models.sites import find_sites
from monosemy.runtime import UsageError, pick_device, pick_dtype


class LanguageModel:
    """A causal model or an encoder. Open one with `LanguageModel.load`; `model` is the network underneath."""

    def __init__(self, opened: Opened, paths: ModulePaths | None = None) -> None:
        text = opened.config.get_text_config()
        self.model: nn.Module = opened.model
        self.is_causal = opened.is_causal
        self.tokenizer_fingerprint = opened.tokenizer_fingerprint
        self._opened, self._sites = opened, find_sites(opened.model, text.num_hidden_layers, paths or ModulePaths())
        weight = next(self._sites.places["embed"].modules[0].parameters())
        self.device, self.dtype, self.vocab_size = weight.device, weight.dtype, int(weight.shape[0])
        self.n_layers, self.d_model = self._sites.n_layers, self._sites.widths["layers.0.resid_pre"]
        self.max_context = _max_context(text, opened.model)

    @classmethod
    def load(
        cls, name: str | Path, device: str = "auto", dtype: str = "fp32", paths: ModulePaths | None = None
    ) -> LanguageModel:
        """Open the model in a folder (monosemy's or Hugging Face's) or with a name on the Hub.

        `paths` tells the modules of an architecture whose structure cannot be read. Raises UsageError if there is no
        such model, its files are damaged or incomplete, or its structure is not understood.
        """
        return cls(open_model(name, pick_device(device), pick_dtype(dtype)), paths)

    def as_parent(self) -> Parent:
        """The model as a child's manifest names it."""
        return self._parent

    def check_tokens(self, tokens: TokenStore) -> None:
        """Raises UsageError if these tokens are not this model's: other vocabulary, or longer rows than it takes."""
        theirs, ours = tokens.tokenizer_fingerprint, self.tokenizer_fingerprint
        if ours is not None and ours != theirs:
            raise UsageError(
                f"{tokens.artifact.path}: made with another tokenizer than that of {self._opened.name}; "
                f"tokenize the text again with --tokenizer {self._opened.name}"
            )
        if tokens.vocab_size > self.vocab_size and (top := int(tokens.tokens_T.max())) >= self.vocab_size:
            raise UsageError(
                f"{tokens.artifact.path}: holds token {top}, and {self._opened.name} has a vocabulary of "
                f"{self.vocab_size}; tokenize the text with the model's own tokenizer"
            )
        longest = int(tokens.row_lengths_R.max())
        if self.max_context is not None and longest > self.max_context:
            raise UsageError(
                f"{tokens.artifact.path}: rows of {longest} tokens, and {self._opened.name} takes at most "
                f"{self.max_context}; tokenize again with --context {self.max_context}"
            )

    def sites(self) -> list[str]:
        """Every site this model has."""
        return list(self._sites.places)

    def width_of(self, site: str) -> int:
        """The width D of a site's activations."""
        self.check_site(site)
        return self._sites.widths[site]

    def check_site(self, site: str) -> None:
        """Raises UsageError if the model has no such site, saying which it has."""
        self._sites.check(site)

    def pointwise(self, layer: int) -> list[nn.Module]:
        """The parts of a block that see one position at a time: its linear maps; its MLP where that stands alone."""
        block, branch = self._sites.places[f"layers.{layer}.resid_pre"].modules[0], self._sites.branches.get(layer)
        maps = [module for module in block.modules() if is_linear(module)]
        return maps if branch is None else [branch.mlp, *maps]

    @torch.inference_mode()
    def capture(
        self, ids_BC: Tensor, sites: Sequence[str], mask_BC: Tensor | None = None, past: Any = None
    ) -> dict[str, Tensor]:
        """The activations `x_BCD` of each site; nothing behind the last of them is computed.

        `past`: the keys and values of what stands before these tokens, a cache of transformers; theirs are added.
        """
        return self._read(ids_BC, sites, mask_BC, past=past)

    @torch.inference_mode()
    def logits(self, ids_BC: Tensor, mask_BC: Tensor | None = None, edits: Mapping[str, Edit] | None = None) -> Tensor:
        """`logits_BCV` with each site's activation `x_BCD` replaced by what its edit makes of it.

        An edit gives a new tensor and leaves its argument alone. Raises UsageError for a model without unembedding.
        """
        if not self._sites.has_unembedding:
            raise UsageError(f"{self._opened.name}: has no unembedding, so no logits; name a model with its head")
        with hooked(ids_BC.shape, {}, self._in_order(edits or {})):
            logits_BCV: Tensor = self.model(**self._inputs(ids_BC, mask_BC)).logits
        return logits_BCV

    @torch.inference_mode()
    def token_losses(
        self, ids_BC: Tensor, mask_BC: Tensor | None = None, edits: Mapping[str, Edit] | None = None
    ) -> Tensor:
        """Cross-entropy of every next token, `[B, C-1]` in nats, 0 where that token is padding."""
        if not self.is_causal:
            raise UsageError(f"{self._opened.name}: an encoder predicts no next token; losses need a causal model")
        logits_BCV = self.logits(ids_BC, mask_BC, edits)
        targets_BC = ids_BC.to(self.device)
        rows = [  # row by row: the fp32 copy of the logits is large
            cross_entropy(logits_CV[:-1].float(), targets_C[1:], reduction="none")
            for logits_CV, targets_C in zip(logits_BCV, targets_BC, strict=True)
        ]
        losses_BC = torch.stack(rows)
        return losses_BC if mask_BC is None else losses_BC * mask_BC[:, 1:].to(self.device)

    @torch.inference_mode()
    def direction_logits(self, site: str, v_ND: Tensor, fold_norm: bool = True) -> Tensor | None:
        """`logits_NV` of adding directions `v_ND` at the site, through the linear path to the unembedding.

        From `mlp_act` that is the down projection, from a residual site the skips alone. Norms on the way count with
        their gain (and LayerNorm's centring), not with their scale, which depends on the token: values are up to a
        positive factor a token. `fold_norm=False` leaves the final norm out. None where there is no such path.
        Source: nostalgebraist, "interpreting GPT: the logit lens", 2020.
        """
        self.check_site(site)
        if v_ND.ndim != 2 or v_ND.shape[1] != self._sites.widths[site]:
            raise UsageError(
                f"`v` has shape {list(v_ND.shape)}; directions at {site} are [n, {self._sites.widths[site]}]"
            )
        scale = self._embed_scale if site == "embed" else 1.0
        if scale == 0:
            return None
        return logits_along(self._sites, site, scale * v_ND.to(self.device).float(), fold_norm)

    @cached_property
    def _parent(self) -> Parent:
        return self._opened.as_parent()

    @cached_property
    def _embed_scale(self) -> float:
        """What the stream takes of the token embedding: 1, or Gemma's √d; 0 where it is no multiple of it."""
        ids_BC = torch.arange(min(4, self.vocab_size))[None]
        stream = "layers.0.resid_pre"
        once = self._read(ids_BC, ["embed", stream])
        twice = self._read(ids_BC, [stream], edits={"embed": lambda x_BCD: 2 * x_BCD})
        return stream_scale(once["embed"], once[stream], twice[stream])

    def _read(
        self,
        ids_BC: Tensor,
        sites: Sequence[str],
        mask_BC: Tensor | None = None,
        edits: Mapping[str, Edit] | None = None,
        past: Any = None,
    ) -> dict[str, Tensor]:
        for site in sites:
            self.check_site(site)
        reads = {site: self._sites.places[site] for site in sites}
        branch = self._sites.shortcut(sites)
        with hooked(ids_BC.shape, reads, self._in_order(edits or {}), stop=True, branch=branch) as found:
            cached = {} if past is None else {"past_key_values": past, "use_cache": True}
            self.model(**{**self._inputs(ids_BC, mask_BC), **cached})
        return found

    def _in_order(self, edits: Mapping[str, Edit]) -> list[tuple[str, Place, Edit]]:
        """The edits in the order of the sites, so that one of `resid_mid` comes before one of `mlp_in`."""
        for site in edits:
            self.check_site(site)
        return [(site, place, edits[site]) for site, place in self._sites.places.items() if site in edits]

    def _inputs(self, ids_BC: Tensor, mask_BC: Tensor | None) -> dict[str, Any]:
        """Arguments of the network. It runs faster without a mask, and a causal model needs none for padding on the
        right, which comes after every token that counts."""
        inputs: dict[str, Any] = {"input_ids": ids_BC.to(self.device), **without_cache(self.model)}
        if mask_BC is not None and not bool(mask_BC.all()):
            on_the_right = bool((mask_BC[:, 1:] <= mask_BC[:, :-1]).all())
            if not (self.is_causal and on_the_right):
                inputs["attention_mask"] = mask_BC.to(self.device, torch.long)
        return inputs


def _max_context(config: Any, model: nn.Module) -> int | None:
    """The most tokens a row may have. RoBERTa's position table starts behind its padding token."""
    most = getattr(config, "max_position_embeddings", None)
    if most is None:
        return None
    tables = [m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and "position" in name]
    skipped = [table.padding_idx + 1 for table in tables if table.padding_idx is not None]
    return int(most) - max(skipped, default=0)
