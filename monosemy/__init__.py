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
    from monosemy.analysis.ablation import ablation_effect
    from monosemy.analysis.agreement import input_output_agreement
    from monosemy.analysis.atlas import atlas
    from monosemy.analysis.attribution import logit_attribution, prompt_attribution
    from monosemy.analysis.circuits import children, parents
    from monosemy.analysis.context import context_ablation
    from monosemy.analysis.created import created_examples
    from monosemy.analysis.feature_examples import examples_of_feature
    from monosemy.analysis.feature_tokens import tokens_of_feature
    from monosemy.analysis.index import FeatureIndex, features
    from monosemy.analysis.lab import Lab
    from monosemy.analysis.labelled import labelled_texts
    from monosemy.analysis.mcs_table import mcs_table
    from monosemy.analysis.moments import feature_moments
    from monosemy.analysis.neighbours import nearest_features
    from monosemy.analysis.neuron_curves import neuron_curves
    from monosemy.analysis.neurons import neuron_comparison
    from monosemy.analysis.pairs import feature_pairs
    from monosemy.analysis.probes import k_sparse_probe
    from monosemy.analysis.probing import probe_labels
    from monosemy.analysis.search import features_of_prompt, features_of_token
    from monosemy.analysis.splitting import splitting_tree
    from monosemy.analysis.steering import steer
    from monosemy.analysis.steering_agreement import steering_agreement
    from monosemy.analysis.verdict import neuron_verdicts
    from monosemy.analysis.verdict_store import VerdictStore, verdicts
    from monosemy.analysis.vocabulary import vocabulary_scan
    from monosemy.app.export import export
    from monosemy.app.server import serve
    from monosemy.artifact import load
    from monosemy.data.activations import ActivationStore
    from monosemy.data.synthetic import World, WorldSettings
    from monosemy.data.tokens import TokenStore, tokenize
    from monosemy.dictionaries.baselines import neuron_basis, pca, random_directions
    from monosemy.dictionaries.dictionary import Dictionary
    from monosemy.dictionaries.store import DictionaryStore, load_dictionary, save_dictionary
    from monosemy.explain.store import ExplanationStore, explanations
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
    "ExplanationStore": "explain.store",
    "FeatureIndex": "analysis.index",
    "Lab": "analysis.lab",
    "LanguageModel": "models.language_model",
    "Scores": "metrics.scores",
    "TokenStore": "data.tokens",
    "UsageError": "runtime",
    "VerdictStore": "analysis.verdict_store",
    "World": "data.synthetic",
    "WorldSettings": "data.synthetic",
    "ablation_effect": "analysis.ablation",
    "advise": "metrics.selection",
    "atlas": "analysis.atlas",
    "baselines": "training.baselines",
    "children": "analysis.circuits",
    "consensus": "training.consensus",
    "context_ablation": "analysis.context",
    "created_examples": "analysis.created",
    "evaluate": "metrics.evaluate",
    "examples_of_feature": "analysis.feature_examples",
    "explanations": "explain.store",
    "export": "app.export",
    "feature_moments": "analysis.moments",
    "feature_pairs": "analysis.pairs",
    "features": "analysis.index",
    "features_of_prompt": "analysis.search",
    "features_of_token": "analysis.search",
    "fidelity": "metrics.fidelity",
    "fit": "training.sweep",
    "fit_consensus": "training.consensus",
    "fit_grid": "training.sweep",
    "harvest": "models.harvest",
    "input_output_agreement": "analysis.agreement",
    "k_sparse_probe": "analysis.probes",
    "labelled_texts": "analysis.labelled",
    "load": "artifact",
    "load_dictionary": "dictionaries.store",
    "logit_attribution": "analysis.attribution",
    "mcs": "metrics.recovery",
    "mcs_table": "analysis.mcs_table",
    "mmcs": "metrics.recovery",
    "mmcs_to_truth": "metrics.recovery",
    "nearest_features": "analysis.neighbours",
    "neuron_basis": "dictionaries.baselines",
    "neuron_comparison": "analysis.neurons",
    "neuron_curves": "analysis.neuron_curves",
    "neuron_verdicts": "analysis.verdict",
    "one_to_one": "metrics.matching",
    "parents": "analysis.circuits",
    "pca": "dictionaries.baselines",
    "pretrain": "models.pretrain",
    "probe_labels": "analysis.probing",
    "prompt_attribution": "analysis.attribution",
    "random_directions": "dictionaries.baselines",
    "save_dictionary": "dictionaries.store",
    "serve": "app.server",
    "splitting_tree": "analysis.splitting",
    "steer": "analysis.steering",
    "steering_agreement": "analysis.steering_agreement",
    "tokenize": "data.tokens",
    "tokens_of_feature": "analysis.feature_tokens",
    "train": "training.sweep",
    "truth_scores": "metrics.truth",
    "verdicts": "analysis.verdict_store",
    "vocabulary_scan": "analysis.vocabulary",
    "write_report": "report.page",
}

__all__ = [
    "ActivationStore",
    "Dictionary",
    "DictionaryStore",
    "ExplanationStore",
    "FeatureIndex",
    "Lab",
    "LanguageModel",
    "Scores",
    "TokenStore",
    "UsageError",
    "VerdictStore",
    "World",
    "WorldSettings",
    "ablation_effect",
    "advise",
    "atlas",
    "baselines",
    "children",
    "consensus",
    "context_ablation",
    "created_examples",
    "evaluate",
    "examples_of_feature",
    "explanations",
    "export",
    "feature_moments",
    "feature_pairs",
    "features",
    "features_of_prompt",
    "features_of_token",
    "fidelity",
    "fit",
    "fit_consensus",
    "fit_grid",
    "harvest",
    "input_output_agreement",
    "k_sparse_probe",
    "labelled_texts",
    "load",
    "load_dictionary",
    "logit_attribution",
    "mcs",
    "mcs_table",
    "mmcs",
    "mmcs_to_truth",
    "nearest_features",
    "neuron_basis",
    "neuron_comparison",
    "neuron_curves",
    "neuron_verdicts",
    "one_to_one",
    "parents",
    "pca",
    "pretrain",
    "probe_labels",
    "prompt_attribution",
    "random_directions",
    "save_dictionary",
    "serve",
    "splitting_tree",
    "steer",
    "steering_agreement",
    "tokenize",
    "tokens_of_feature",
    "train",
    "truth_scores",
    "verdicts",
    "vocabulary_scan",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'monosemy' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"monosemy.{_HOME[name]}"), name)
    globals()[name] = value
    return value
