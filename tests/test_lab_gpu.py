"""The lab on a GPU gives what it gives on the CPU, every tensor on the right device; codes of bf16 models are fp32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from network_labs import network_lab

from monosemy.analysis.ablation import ablation_effect
from monosemy.analysis.agreement import input_output_agreement
from monosemy.analysis.attribution import logit_attribution, prompt_attribution
from monosemy.analysis.circuits import parents
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import created_examples
from monosemy.analysis.lab import Lab
from monosemy.analysis.neuron_curves import neuron_curves
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.probes import k_sparse_probe
from monosemy.analysis.search import features_of_prompt
from monosemy.analysis.steering import steer
from monosemy.analysis.verdict import neuron_verdicts
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.models.language_model import LanguageModel

FEATURE, PROMPT, SITE = 3, [5, 9, 30, 40, 7, 12], "layers.1.mlp_act"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ANALYSES: dict[str, Callable[[Lab], Any]] = {  # each gives something with a table
    "ablation": lambda lab: ablation_effect(lab, FEATURE, PROMPT),
    "agreement": lambda lab: input_output_agreement(lab, at_least=2),
    "append": lambda lab: vocabulary_scan(lab, FEATURE, PROMPT, "append", plausible=1e-3),
    "prepend": lambda lab: vocabulary_scan(lab, FEATURE, PROMPT, "prepend"),
    "replace": lambda lab: vocabulary_scan(lab, FEATURE, PROMPT, "replace", position=2),
    "alone": lambda lab: vocabulary_scan(lab, FEATURE, None, "alone"),
    "attribution": lambda lab: logit_attribution(lab, FEATURE),
    "prompt attribution": lambda lab: prompt_attribution(lab, PROMPT),
    "context": lambda lab: context_ablation(lab, FEATURE, PROMPT),
    "created": lambda lab: created_examples(lab, [PROMPT, PROMPT[:2]]),
    "neurons": lambda lab: neuron_comparison(lab, FEATURE),
    "curves": neuron_curves,
    "parents": lambda lab: parents(lab, FEATURE, replace(lab, site="layers.0.mlp_act", index=None)),
    "probe": lambda lab: k_sparse_probe(lab, FEATURE, [1, 2]),
    "search": lambda lab: features_of_prompt(lab, PROMPT),
    "steer": lambda lab: steer(lab, FEATURE, PROMPT, new_tokens=8, temperature=0.0),
    "verdicts": neuron_verdicts,
}


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Lab]:
    """The same lab on the CPU and on the GPU."""
    folder = tmp_path_factory.mktemp("labs")
    here = network_lab(folder, site=SITE, indexed=True)
    return here, moved(here, folder, "fp32")


def moved(lab: Lab, folder: Path, dtype: str) -> Lab:
    """A lab with its model opened anew on the GPU."""
    model = LanguageModel.load(folder / "model", device="cuda", dtype=dtype)
    return replace(lab, model=model, dictionary=lab.dictionary.to("cuda"))


def rounded(row: list[Any]) -> list[Any]:
    """Numbers as near as two devices come to each other."""
    return [pytest.approx(cell, rel=2e-3, abs=2e-3, nan_ok=True) if isinstance(cell, float) else cell for cell in row]


@needs_gpu
@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_gives_the_same_on_a_gpu(labs: tuple[Lab, Lab], name: str) -> None:
    here, there = (ANALYSES[name](lab).table() for lab in labs)
    key = [repr([cell for cell in row if not isinstance(cell, float)]) for row in here.rows]
    other = [repr([cell for cell in row if not isinstance(cell, float)]) for row in there.rows]
    assert sorted(key) == sorted(other)  # near equals may change places
    if len(set(key)) == len(key):
        by_key = dict(zip(other, there.rows, strict=True))
        for each, row in zip(key, here.rows, strict=True):
            assert list(by_key[each]) == rounded(list(row))


@needs_gpu
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_codes_on_a_gpu_are_fp32(tmp_path: Path, dtype: str) -> None:
    here = network_lab(tmp_path)
    there = moved(here, tmp_path, dtype)
    codes_BCN = there.codes(there.batch([PROMPT, PROMPT[:3]]))
    assert (codes_BCN.dtype, codes_BCN.device.type) == (torch.float32, "cuda")
    expected = here.codes(here.batch([PROMPT, PROMPT[:3]]))
    torch.testing.assert_close(codes_BCN.cpu(), expected, rtol=0.05, atol=1e-4 if dtype == "fp32" else 0.05)


def test_codes_of_a_bf16_model_are_fp32(tmp_path: Path) -> None:
    """Of the model's rounded activations, not themselves rounded: bf16 codes would have 8 bits."""
    lab = network_lab(tmp_path)
    lab = replace(lab, model=LanguageModel.load(tmp_path / "model", device="cpu", dtype="bf16"))
    batch = lab.batch([PROMPT])
    x_XD, codes_XN = lab.x(batch)[0], lab.codes(batch)[0]
    assert lab.model.dtype == torch.bfloat16
    assert torch.equal(x_XD, x_XD.bfloat16().float())
    torch.testing.assert_close(codes_XN, lab.dictionary.encode(x_XD))
    assert codes_XN.dtype == torch.float32
    assert not torch.equal(codes_XN, codes_XN.bfloat16().float())
