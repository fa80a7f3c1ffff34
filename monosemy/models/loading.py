"""Opening a network: a folder that monosemy wrote, a Hugging Face folder, or a name on the Hub.

Which class it gets is read from its config: a causal model with its unembedding, an encoder with its masked-word
head, or a bare network where the file holds no head (a head is never made up from random numbers).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monosemy.artifact import Parent
from monosemy.artifact import load as load_artifact
from monosemy.data.tokenizer import fingerprint, open_tokenizer
from monosemy.draft import MANIFEST
from monosemy.files import file_digest
from monosemy.runtime import UsageError

WEIGHTS = ("*.safetensors", "*.bin")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True)
class Opened:
    """A network and where it came from. `parent_id` is its content hash if that is known already."""

    model: nn.Module
    config: Any
    is_causal: bool
    name: str
    folder: Path | None
    parent_id: str | None
    tokenizer_fingerprint: str | None

    def as_parent(self) -> Parent:
        """The network as a child's manifest names it."""
        if self.folder is None:
            return Parent("model", str(self.parent_id), self.name)
        return Parent("model", self.parent_id or _folder_digest(self.folder), str(self.folder.resolve()))


def open_model(name: str | Path, device: torch.device, dtype: torch.dtype) -> Opened:
    """The network called `name`, ready to run.

    Raises UsageError if there is none, it has no weights or lacks some, is damaged, or cannot be had from the Hub.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _open_folder(path, device, dtype)
    if not HUB_NAME.fullmatch(str(name)):
        raise UsageError(f"model (={str(name)!r}): no such folder; name one that exists, or a model on the Hub")
    return _open_hub(str(name), device, dtype)


def _open_folder(path: Path, device: torch.device, dtype: torch.dtype) -> Opened:
    if not (path / "config.json").is_file():
        raise UsageError(f"{path}: not a model in transformers format (it has no config.json)")
    ours = load_artifact(path, "model") if (path / MANIFEST).is_file() else None
    if not _weight_files(path):
        raise UsageError(f"{path}: holds no weights (*.safetensors or *.bin); copy them there, or name another folder")
    model, config, is_causal = _from_pretrained(str(path), f"{path}", device, dtype)
    tokenizer = path / "tokenizer.json"
    marks = fingerprint(open_tokenizer(str(tokenizer))[0]) if tokenizer.is_file() else None
    return Opened(model, config, is_causal, str(path), path, None if ours is None else ours.id, marks)


def _open_hub(name: str, device: torch.device, dtype: torch.dtype) -> Opened:
    from transformers.utils.hub import cached_file

    label = f"model (={name!r})"
    try:
        commit = Path(str(cached_file(name, "config.json"))).parent.name  # …/snapshots/<commit>/config.json
        tokenizer = cached_file(name, "tokenizer.json", revision=commit, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        raise UsageError(f"{label}: {_why(error)}") from error
    model, config, is_causal = _from_pretrained(name, label, device, dtype, commit)
    marks = None if tokenizer is None else fingerprint(open_tokenizer(str(tokenizer))[0])
    return Opened(model, config, is_causal, name, None, f"{name}@{commit}", marks)


def _from_pretrained(
    name: str, label: str, device: torch.device, dtype: torch.dtype, commit: str = "main"
) -> tuple[nn.Module, Any, bool]:
    import transformers

    source = {"revision": commit, "trust_remote_code": False}
    try:
        with _no_bars():
            config = transformers.AutoConfig.from_pretrained(name, **source)
            chosen, is_causal = _model_class(config, label)
            model, found = chosen.from_pretrained(name, dtype=dtype, output_loading_info=True, **source)
    except UsageError:
        raise
    except Exception as error:  # hub, network, format and naming errors alike: one line says which
        raise UsageError(f"{label}: {_why(error)}") from error
    if missing := sorted(found["missing_keys"]):
        raise UsageError(
            f"{label}: its weights lack {len(missing)} of the model's tensors (first {missing[0]}); "
            f"the file is incomplete or belongs to another config"
        )
    return model.eval().requires_grad_(False).to(device), config, is_causal


def _model_class(config: Any, label: str) -> tuple[Any, bool]:
    """The transformers class to load with, and whether the network looks only backwards."""
    import transformers
    from transformers.models.auto import modeling_auto

    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"{label}: an encoder-decoder ({config.model_type}); causal models and encoders are supported")
    known = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING)
    in_causal, in_masked = (type(config) in mapping for mapping in known)
    written = (config.architectures or [""])[0]
    if written.endswith(("ForCausalLM", "LMHeadModel")) or (not written and in_causal and not in_masked):
        return transformers.AutoModelForCausalLM, True
    if written.endswith(("ForMaskedLM", "ForPreTraining")) and in_masked:
        return transformers.AutoModelForMaskedLM, False
    return transformers.AutoModel, in_causal and not in_masked


def _why(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "connect" in text or "offline" in text.lower():
        return "no such folder here, and the Hub cannot be reached; name a local folder, or check the connection"
    if "trust_remote_code" in text:
        return "needs Python code from its own repository, which is not run; name a model that transformers knows"
    return f"transformers cannot load it ({type(error).__name__}: {text[:300]})"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' own progress bars; the user's setting returns after."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _weight_files(path: Path) -> list[Path]:
    return sorted(file for pattern in WEIGHTS for file in path.glob(pattern))


def _folder_digest(path: Path) -> str:
    """Content hash of a plain folder: its config and its weights."""
    files = [path / "config.json", *_weight_files(path)]
    return hashlib.sha256(json.dumps([[file.name, file_digest(file)] for file in files]).encode()).hexdigest()
