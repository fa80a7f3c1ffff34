"""One text with changes made at a site, and the change that is the control of a feature's removal.

The control takes out, at each place where the feature fires, another feature that is active there, drawn at random,
its contribution scaled to the norm of what the feature's removal changes:

    −‖c_f W_f‖ · u / ‖u‖,   u = c_h W_h of a random h ≠ f with c_h ≠ 0

So place, size and kind of the change are the same (some feature that the text really has), and the feature is another.

Shapes: C tokens of a text, W of them shown, V = vocabulary, D = width written, N features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosemy.analysis.intervention import Edit
from monosemy.analysis.lab import Lab
from monosemy.models.path import directions_at_end, path_scale
from monosemy.runtime import full_rate_products


@dataclass(frozen=True)
class Effects:
    """Changes of log p at the places shown."""

    next_token: list[float | None]
    suppressed: list[float]
    token: list[int]
    """Which one is most suppressed."""


class Runs:
    """A text read without and with changes of what is written at the lab's site."""

    def __init__(self, lab: Lab, ids: list[int], shown: range, direct: bool) -> None:
        self.ids, self.shown, self._lab = ids, shown, lab
        self._ids_1C = torch.tensor([ids])
        self._next_W = torch.tensor([*ids[1:], -1])[shown.start : shown.stop].to(lab.model.device)
        self._before_WV = self._log_probabilities({})
        self._scale_C = path_scale(lab.model, lab.written_site, self._ids_1C)[0] if direct else None

    def effects(self, change_CD: Tensor) -> dict[str, Effects]:
        """What adding `change_CD` does: "full" and, where the path is linear, "direct"."""
        site = self._lab.written_site
        found = {"full": self._effects({site: lambda x_1CD: (x_1CD.float() + change_CD).to(x_1CD)})}
        if self._scale_C is not None:
            at_end_CE = directions_at_end(self._lab.model, site, change_CD) * self._scale_C[:, None]
            found["direct"] = self._effects({"final": lambda x_1CE: x_1CE.float() + at_end_CE})
        return found

    def _effects(self, edits: Mapping[str, Edit]) -> Effects:
        change_WV = self._log_probabilities(edits) - self._before_WV
        at_next_W = change_WV.gather(1, self._next_W.clamp_min(0)[:, None])[:, 0].tolist()
        least = change_WV.min(dim=1)
        next_token = [
            None if token < 0 else value for token, value in zip(self._next_W.tolist(), at_next_W, strict=True)
        ]
        return Effects(next_token, least.values.clamp_max(0).tolist(), least.indices.tolist())

    def _log_probabilities(self, edits: Mapping[str, Edit]) -> Tensor:
        """`log_p_WV` of the tokenizer's vocabulary; rows of the unembedding behind it take their part of the sum."""
        with full_rate_products(self._lab.model.device):
            logits_CV = self._lab.model.logits(self._ids_1C, edits=edits)[0]
        log_p_CV = logits_CV[self.shown.start : self.shown.stop].float().log_softmax(dim=1)
        return log_p_CV[:, : self._lab.vocab_size]


def control_change(
    lab: Lab, feature: int, codes_CN: Tensor, change_CD: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The control of `change_CD`, and where there is none, for no other feature is active: `alone_C`."""
    others_CN = codes_CN != 0
    others_CN[:, feature] = False
    size_C1 = change_CD.norm(dim=1, keepdim=True)
    alone_C = (size_C1[:, 0] > 0) & ~others_CN.any(dim=1)
    drawable_CN = others_CN.cpu().float()
    drawable_CN[~drawable_CN.any(dim=1)] = 1  # a draw that is not used
    drawn_C = torch.multinomial(drawable_CN, 1, generator=generator)[:, 0].to(codes_CN.device)
    code_C = codes_CN.gather(1, drawn_C[:, None])[:, 0]
    unit_CD = torch.nn.functional.normalize(code_C[:, None] * lab.dictionary.W_dec_ND[drawn_C].float(), dim=1)
    return -size_C1 * unit_CD, alone_C


def averages(runs: Sequence[Sequence[float | None]], alone: Sequence[bool]) -> list[float | None]:
    """The mean over runs at each place; None where there is no run, no value, or the place has none."""
    columns = zip(*runs, strict=True) if runs else ((),) * len(alone)
    found: list[float | None] = []
    for skipped, column in zip(alone, columns, strict=True):
        known = [value for value in column if value is not None]
        found.append(None if skipped or not known else sum(known) / len(known))
    return found
