"""What the comparisons of features with neurons say, in a few sentences."""

from __future__ import annotations

from monosemy.analysis.neuron_curves import NeuronCurves
from monosemy.analysis.neurons import SENSES, NeuronComparison
from monosemy.analysis.probes import KSparseProbe
from monosemy.analysis.probing import LabelProbe
from monosemy.analysis.verdict import FEW
from monosemy.app.words import Values, counted, number, percent, sure

DIRECTIONS = {
    "features": "of the features",
    "identity": "of the neurons themselves",
    "pca": "principal directions",
    "random": "random directions",
}


def of_neurons(_values: Values, result: NeuronComparison) -> list[str]:
    """The verdict and what it rests on."""
    told = result.evidence
    said = [f"Verdict: {told.verdict}; it fires on {counted(told.count, 'token', 'tokens')} of those read."]
    if told.neuron >= 0:
        alike = number(told.correlation)
        said.append(f"Most like number {told.neuron} of the {result.coordinates} (correlation {alike}).")
    if told.share_single is not None and told.share_few is not None:
        said.append(
            f"Of what all of them tell of its code (R² {number(told.r2_all)}) the best one tells "
            f"{percent(told.share_single)}, the best {FEW} tell {percent(told.share_few)}."
        )
    return [*said, f"Its direction is spread over {number(told.participation)} coordinates."]


def of_probe(_values: Values, result: KSparseProbe) -> list[str]:
    """How few neurons tell where the feature fires."""
    best = max(range(len(result.ks)), key=lambda place: result.accuracy[place].value)
    ends = sorted({0, best})
    counts = [min(k, len(result.neurons)) for k in result.ks]  # there are fewer where no more tell anything
    told = [
        f"{counted(counts[place], 'neuron tells', 'neurons tell')} where it fires with a balanced accuracy of "
        f"{sure(result.accuracy[place])}, F1 {sure(result.f1[place])} "
        f"(at the cut that is best in training, at its own frequency); "
        f"{result.ks[place]:,} at random: {sure(result.random_accuracy[place])}."
        for place in ends
    ]
    first = ", ".join(map(str, result.neurons[:8]))
    sizes = f"{result.n_train[0]:,} tokens on which it fires and {result.n_train[1]:,} others"
    return [
        *told,
        f"The best first: {first or 'none tells anything'}. Chance is 0.5.",
        f"Trained on {sizes}, tested on {result.n_test[0]:,} and {result.n_test[1]:,} of other documents.",
    ]


def of_curves(_values: Values, result: NeuronCurves) -> list[str]:
    """How many directions of each kind the curves are of, and where they end."""
    sense, half = SENSES.index("maximum"), result.thresholds.index(0.5)
    said = [
        f"{len(count_C3H):,} {DIRECTIONS[name]}: {number(float(count_C3H[:, sense, half].double().mean()))}"
        for name, count_C3H in result.above.items()
        if len(count_C3H)
    ]
    left = [f"{count:,} {DIRECTIONS[name]}" for name, count in result.left_out.items() if count]
    above = f"How many {result.coordinates} are above half of their own maximum on all {result.examples} top examples"
    return [
        *([f"{above}, on average over {'; '.join(said)}."] if said else []),
        *([f"Left out, as they fire in fewer than {result.examples} documents: {', '.join(left)}."] if left else []),
    ]


def of_labels(_values: Values, result: LabelProbe) -> list[str]:
    """What features tell of the label, beside neurons."""
    features, neurons = result.accuracy["features"], result.accuracy["neurons"]
    told: dict[tuple[int, int], str] = {}  # a probe of k has fewer where no more tell anything, and so may another
    for place in (0, len(result.ks) - 1):
        few, many = (min(result.ks[place], len(result.chosen[basis])) for basis in ("features", "neurons"))
        said = (
            f"{counted(few, 'feature tells', 'features tell')} “{result.labels[1]}” from “{result.labels[0]}” with a "
            f"balanced accuracy of {sure(features[place])}, {counted(many, 'neuron', 'neurons')} with "
            f"{sure(neurons[place])}; the difference is {sure(result.difference[place])}."
        )
        told.setdefault((few, many), said)
    return [
        *told.values(),
        f"All {result.coordinates} together: {sure(result.all_accuracy)}. Chance is 0.5.",
        f"The best features first: {', '.join(map(str, result.chosen['features'][:8])) or 'none tells anything'}.",
        f"Trained on {sum(result.n_train):,} texts, tested on {sum(result.n_test):,} others.",
    ]
