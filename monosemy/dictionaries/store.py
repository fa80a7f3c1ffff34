"""Dictionaries on disk: one safetensors file a member, and the artifact that holds a trained grid.

Shapes: as in `dictionary.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, load
from monosemy.dictionaries.aligned import Aligned
from monosemy.dictionaries.baselines import LinearDictionary
from monosemy.dictionaries.batchtopk import BatchTopK
from monosemy.dictionaries.classical import AffineDictionary, SparseCodingDictionary
from monosemy.dictionaries.crosscoder import Crosscoder, CrosscoderDictionary
from monosemy.dictionaries.denoising import Denoising
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.gated import Gated
from monosemy.dictionaries.jumprelu import JumpRelu, JumpReluDictionary
from monosemy.dictionaries.matryoshka import Matryoshka
from monosemy.dictionaries.panneal import PAnneal
from monosemy.dictionaries.relu import Relu, ReluDictionary, Tied
from monosemy.dictionaries.spikeslab import SpikeSlab, SpikeSlabDictionary
from monosemy.dictionaries.topk import TopK, TopKDictionary
from monosemy.dictionaries.transcoder import SkipTranscoder, SkipTranscoderDictionary, Transcoder
from monosemy.dictionaries.variant import Variant
from monosemy.files import load_tensors, map_tensors, save_tensors
from monosemy.runtime import UsageError

VARIANTS: dict[str, Variant] = {
    "relu": Relu(),
    "tied": Tied(),
    "denoising": Denoising(),
    "topk": TopK(),
    "batchtopk": BatchTopK(),
    "jumprelu": JumpRelu(),
    "gated": Gated(),
    "panneal": PAnneal(),
    "matryoshka": Matryoshka(),
    "aligned": Aligned(),
    "spikeslab": SpikeSlab(),
    "transcoder": Transcoder(),
    "skip-transcoder": SkipTranscoder(),
    "crosscoder": Crosscoder(),
}

# What tells the members of a grid apart.
IDENTITY = ("variant", "width", "l1", "k", "noise", "lr", "seed")

# What can be in a file, by the name written there.
FORMS: dict[str, type[Dictionary]] = {
    form.name: form
    for form in (
        ReluDictionary,
        TopKDictionary,
        JumpReluDictionary,
        SpikeSlabDictionary,
        SkipTranscoderDictionary,
        CrosscoderDictionary,
        LinearDictionary,
        AffineDictionary,
        SparseCodingDictionary,
    )
}


def save_dictionary(path: Path, dictionary: Dictionary) -> None:
    """Write one dictionary to a safetensors file; its form and numbers are in the file's metadata."""
    header = json.dumps({"form": dictionary.name, "settings": dictionary.settings}, sort_keys=True)
    save_tensors(path, dictionary.tensors, ("monosemy", header))


def load_dictionary(path: Path, device: torch.device | str = "cpu") -> Dictionary:
    """Read what `save_dictionary` wrote. Raises UsageError if the file is something else."""
    from safetensors import safe_open

    tensors = load_tensors(path, device)
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get("monosemy", "{}"))
    form = FORMS.get(header.get("form", ""))
    if form is None:
        raise UsageError(f"{path}: holds no dictionary of a known form (known: {', '.join(FORMS)})")
    return form(tensors, header["settings"])


class DictionaryStore:
    """A finished grid of dictionaries. `members[i]` says what member i is; `dictionary(i)` reads it."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.members: list[dict[str, Any]] = artifact.info["members"]
        self.d_in: int = artifact.info["d_in"]
        self.site: str | None = artifact.info["site"]
        self.model_id: str | None = artifact.info.get("model")  # content hash of the model that was harvested
        self.skip_bos: bool = artifact.info.get("skip_bos", False)  # BOS positions were left out

    @classmethod
    def open(cls, path: str | Path | DictionaryStore) -> DictionaryStore:
        """Open and check the grid at `path`; one that is open already is given back."""
        return path if isinstance(path, DictionaryStore) else cls(load(path, "dictionaries"))

    def __len__(self) -> int:
        return len(self.members)

    def dictionary(self, member: int, device: torch.device | str = "cpu") -> Dictionary:
        """Member number `member`. Raises UsageError if there is none of that number."""
        return load_dictionary(self._file(member), device)

    def directions(self, member: int) -> torch.Tensor:
        """W_dec_ND of a member, memory-mapped."""
        return map_tensors(self._file(member))["W_dec"]

    def siblings(self, member: int, *, differ: str) -> list[int]:
        """Members that equal `member` in variant, width, sparsity, noise, rate and seed, but for the field `differ`."""
        mine = self._identity(member, differ)
        others = (other for other in range(len(self)) if other != member)
        return [other for other in others if self._identity(other, differ) == mine]

    def _identity(self, member: int, without: str) -> dict[str, Any]:
        # A member need not name the dials that its variant does not have.
        return {name: self.members[member].get(name) for name in IDENTITY if name != without}

    def _file(self, member: int) -> Path:
        if not 0 <= member < len(self):
            raise UsageError(f"`member` (={member}) must be from 0 to {len(self) - 1} in {self.artifact.path}")
        return self.artifact.path / member_file(member)


def member_file(member: int) -> str:
    """The file of a member inside the artifact."""
    return f"member-{member:04}.safetensors"
