"""monosemy takes features out of superposition: sparse dictionaries of neural activations, proved and shown.

    import monosemy as ms

    tokens = ms.tokenize("stdlib", tokenizer="bpe:4096", out="run/tokens")
    activations = ms.harvest("model/", tokens, site="layers.2.mlp_act", out="run/activations")
    dictionaries = ms.train(activations, width=[512, 1024], l1=[0.03, 0.1], seed=[0, 1], out="run/dictionaries")
    scores = ms.evaluate(dictionaries, activations, model="model/", out="run/scores")
    features = ms.features(dictionaries, member=3, model="model/", tokens=tokens, out="run/features")

`ms.fit(x, width=1024)` trains one dictionary on rows that are just there. Names are loaded when they are first used, so
importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monosemy.analysis.index import FeatureIndex, features
    from monosemy.artifact import load
    from monosemy.data.activations import ActivationStore
    from monosemy.data.synthetic import World, WorldSettings
    from monosemy.data.tokens import TokenStore, tokenize
    from monosemy.dictionaries.baselines import neuron_basis, pca, random_directions
    from monosemy.dictionaries.dictionary import Dictionary
    from monosemy.dictionaries.store import DictionaryStore, load_dictionary, save_dictionary
    from monosemy.metrics.evaluate import evaluate
    from monosemy.metrics.fidelity import fidelity
    from monosemy.metrics.matching import one_to_one
    from monosemy.metrics.recovery import mcs, mmcs, mmcs_to_truth
    from monosemy.metrics.scores import Scores
    from monosemy.metrics.selection import advise
    from monosemy.metrics.truth import truth_scores
    from monosemy.models.harvest import harvest
    from monosemy.models.language_model import LanguageModel
    from monosemy.models.pretrain import pretrain
    from monosemy.report.page import write_report
    from monosemy.runtime import UsageError
    from monosemy.training.baselines import baselines
    from monosemy.training.consensus import consensus, fit_consensus
    from monosemy.training.sweep import fit, fit_grid, train

__version__ = "0.1.0"

_HOME = {
    "ActivationStore": "data.activations",
    "Dictionary": "dictionaries.dictionary",
    "DictionaryStore": "dictionaries.store",
    "FeatureIndex": "analysis.index",
    "LanguageModel": "models.language_model",
    "Scores": "metrics.scores",
    "TokenStore": "data.tokens",
    "UsageError": "runtime",
    "World": "data.synthetic",
    "WorldSettings": "data.synthetic",
    "advise": "metrics.selection",
    "baselines": "training.baselines",
    "consensus": "training.consensus",
    "evaluate": "metrics.evaluate",
    "features": "analysis.index",
    "fidelity": "metrics.fidelity",
    "fit": "training.sweep",
    "fit_consensus": "training.consensus",
    "fit_grid": "training.sweep",
    "harvest": "models.harvest",
    "load": "artifact",
    "load_dictionary": "dictionaries.store",
    "mcs": "metrics.recovery",
    "mmcs": "metrics.recovery",
    "mmcs_to_truth": "metrics.recovery",
    "neuron_basis": "dictionaries.baselines",
    "one_to_one": "metrics.matching",
    "pca": "dictionaries.baselines",
    "pretrain": "models.pretrain",
    "random_directions": "dictionaries.baselines",
    "save_dictionary": "dictionaries.store",
    "tokenize": "data.tokens",
    "train": "training.sweep",
    "truth_scores": "metrics.truth",
    "write_report": "report.page",
}

__all__ = [
    "ActivationStore",
    "Dictionary",
    "DictionaryStore",
    "FeatureIndex",
    "LanguageModel",
    "Scores",
    "TokenStore",
    "UsageError",
    "World",
    "WorldSettings",
    "advise",
    "baselines",
    "consensus",
    "evaluate",
    "features",
    "fidelity",
    "fit",
    "fit_consensus",
    "fit_grid",
    "harvest",
    "load",
    "load_dictionary",
    "mcs",
    "mmcs",
    "mmcs_to_truth",
    "neuron_basis",
    "one_to_one",
    "pca",
    "pretrain",
    "random_directions",
    "save_dictionary",
    "tokenize",
    "train",
    "truth_scores",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'monosemy' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"monosemy.{_HOME[name]}"), name)
    globals()[name] = value
    return value
