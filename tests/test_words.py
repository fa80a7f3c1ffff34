"""What results say in words: each number is theirs, one is singular, and nothing is said of what is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from monosemy.analysis.ablation import AblationEffect, MeanEffect
from monosemy.analysis.agreement import Agreement, AgreementSettings, FeatureAgreement, Match, Shares
from monosemy.analysis.attribution import Contribution, LogitAttribution, PromptAttribution, VocabularyLogits
from monosemy.analysis.context import ContextAblation
from monosemy.analysis.neuron_curves import NeuronCurves
from monosemy.analysis.probes import KSparseProbe
from monosemy.analysis.probing import LabelProbe
from monosemy.analysis.steering import Steering, SteeringSettings, WrittenText
from monosemy.analysis.steering_agreement import SteeredFeature, SteeringAgreement
from monosemy.analysis.vocabulary import ScannedToken, VocabularyScan, Where
from monosemy.app import neuron_words, words
from monosemy.metrics.calibration import Interval
from monosemy.metrics.interval import Share


def scan(up: int, down: int, same: int, total: int, where: Where = "append") -> VocabularyScan:
    done = up + down + same
    place = 0 if where == "alone" else 3
    return VocabularyScan(
        7, where, ["a", "b", "c"], place, 0.5, torch.arange(done), torch.zeros(done), ["x"] * done, [], [], [], up,
        down, same, 0, total, 0, None,
    )  # fmt: skip


def test_a_scan_counts_as_people_do() -> None:
    base = "Without any, its code at the last token is 0.5."
    none = "It fires with none of them."
    assert words.of_scan({}, scan(97, 12, 1000, 1109)) == [
        "97 tokens increase it, 12 decrease it, 1,000 leave it unchanged.", base, none
    ]  # fmt: skip
    assert words.of_scan({}, scan(1, 1, 1, 10, "alone")) == [
        "1 token increases it, 1 decreases it, 1 leaves it unchanged.", "So far: 3 of 10 tokens.", none
    ]  # fmt: skip
    assert words.of_scan({}, scan(1, 0, 0, 1, "replace"))[1] == "As the text stands, its code at the last token is 0.5."
    filtered = replace(scan(1, 0, 0, 1), n_implausible=300, plausible=0.001)
    assert words.of_scan({}, filtered)[1:] == [
        base, none, "Left out, as the model gives them less than 0.001 there: 300 tokens."
    ]  # fmt: skip
    named = [
        ScannedToken(number, text, value, value - 0.5) for number, text, value in ((4, " h", 2.0), (9, "\n", 0.25))
    ]
    assert words.of_scan({}, replace(scan(1, 2, 0, 3), strongest=named, n_fires=2))[2:] == [
        "It fires with 2 tokens, most with “␣h” (2), “⏎” (0.25)."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("append", "after the prompt"),
        ("prepend", "before the prompt"),
        ("replace", "in place of token 3 of the prompt"),
        ("alone", "alone"),
    ],
)
def test_each_chart_of_each_scan_says_what_was_scanned(where: Where, said: str) -> None:
    titles = [chart.title for chart in scan(1, 1, 1, 3, where).charts()]
    assert titles == [
        f"Every token {said}: change of feature 7",
        f"Tokens {said} that change feature 7 most",
        f"Tokens {said} with which feature 7 is strongest",
        f"Feature 7 with each token {said}",
    ]


def test_context_ablation_says_how_many_tokens_are_needed() -> None:
    result = ContextAblation(7, 2.0, [1, 2, 3, 4], ["a", "b", "c", "d"], [None, -1.5, 0.25, None])
    assert words.of_context({}, result) == [
        "Its code at the last token is 2.",
        "Leaving out 1 of 2 tokens takes more than half of it; the changes go from −1.5 to 0.25.",
    ]
    silent = replace(result, base=0.0, change=[None, 0.0, 0.75, None])
    assert words.of_context({}, silent)[1] == "Without one token it is at most 0.75."
    assert len(words.of_context({}, replace(result, change=[None] * 4))) == 1


def written(codes: list[float], log_probs: list[float]) -> WrittenText:
    return WrittenText("x" * len(codes), ["x"] * len(codes), codes, log_probs, log_probs, "length")


def test_steering_says_what_changed() -> None:
    settings = SteeringSettings()
    result = Steering(7, settings, 4.0, ["a"], written([0.0, 1.0], [-1.0, -3.0]), written([3.0], [-6.0]))
    assert words.of_steering({}, result) == [
        "Strength 1 is its maximum, a code of 4.",
        "Its mean code on new tokens: 0.5 without the change, 3 with it.",
        "The unchanged model gives a token of the text without it −2 nats on average, of the steered one −6.",
    ]
    assert words.of_steering({}, replace(result, maximum=None, plain=written([], []))) == []


def agreement(plain: float, steered: float, controlled: float) -> SteeringAgreement:
    none = Share.of(0, 0)
    silent = int((plain, steered, controlled) == (0, 0, 0))
    feature = SteeredFeature(7, 9, 1, plain, steered, controlled)
    return SteeringAgreement(SteeringSettings(), [feature], silent, none, none, none)


def test_steering_agreement_names_what_it_is_above() -> None:
    said = words.of_steering_agreement({}, agreement(0.5, 2, 0.25))
    assert said == [
        "Its mean code on new tokens, over 1 text of each kind: 0.5 on plain text, 2 on text steered by it, "
        "0.25 on text steered by feature 9, drawn at random.",
        "It fires more on text steered by it than on plain text and on the other's.",
    ]
    for found, last in (
        (agreement(0.5, 0.5, 0.25), "It fires more on text steered by it than on the other's."),
        (agreement(1, 0.5, 0.5), "It does not fire more on text steered by it."),
        (agreement(0, 0, 0), "It fires on none of them, so they say nothing of it."),
    ):
        assert words.of_steering_agreement({}, found)[1] == last
    empty = replace(agreement(0, 0, 0), features=[])
    assert words.of_steering_agreement({}, empty) == ["Every text was empty, so there is nothing to compare."]


def test_one_steered_feature_is_three_bars() -> None:
    (chart,) = agreement(0.5, 2, 0.25).charts()
    (bars,) = chart.marks
    assert (bars.mark, vars(bars)["values"]) == ("bars", [0.5, 2, 0.25])
    assert vars(bars)["labels"] == ["plain text", "steered by it", "steered by 9"]
    two = agreement(0.5, 2, 0.25)
    (chart,) = replace(two, features=two.features * 2).charts()
    assert {mark.mark for mark in chart.marks} == {"points"}


def test_an_ablation_says_both_ways_or_why_one_is_missing() -> None:
    means = {
        "full next_token": MeanEffect(-0.5, -0.75, -0.25, 8),
        "full suppressed": MeanEffect(-2.0, None, None, 1),
        "direct next_token": None,
        "direct suppressed": None,
    }
    excess = {**dict.fromkeys(means), "full next_token": MeanEffect(-0.25, -0.5, 0.0, 8)}
    result = AblationEffect(7, "layers.0.mlp_act", [], "the site has no linear path", means, means, excess)
    assert words.of_ablation({}, result) == [
        "Without it log p changes through the rest of the model by −0.5 nats (−0.75 to −0.25 over 8 texts) at the true "
        "next token and −2 nats at the most suppressed one, where it fires.",
        "Of that, beyond what another active feature does that is taken out at the same size: −0.25 nats "
        "(−0.5 to 0 over 8 texts) at the true next token.",
        "No direct effect: the site has no linear path.",
    ]
    nothing = replace(result, means=dict.fromkeys(means), excess={}, no_direct=None)
    assert words.of_ablation({}, nothing) == [
        "It fires on no token with a next one, so there is no effect to average."
    ]  # fmt: skip


def test_logits_say_their_shape() -> None:
    shaped = VocabularyLogits([], [], 0.0, 0.125, 3.0, 20.0, [], [])
    flat = VocabularyLogits([], [], 1.0, 0.0, None, None, [], [])
    assert words.of_logits({}, LogitAttribution(7, "final", shaped, flat)) == [
        "With the final norm folded in: logits with a standard deviation of 0.125 around 0, skew 3, excess kurtosis 20 "
        "(0 and 0: no token stands out).",
        "Without it: logits with a standard deviation of 0 around 1.",
    ]


def test_an_attribution_shows_the_blanks_of_its_token() -> None:
    result = PromptAttribution("final", ["a"], 3, " the", 0.25, [Contribution(7, 1.0, -0.5)], 1, -0.5, 1.5)
    assert words.of_attribution({"feature": 7}, result) == [
        "The model gives “␣the” a probability of 0.25 after this text.",
        "1 feature fires at the last token; directly they add −0.5 to its logit (above the vocabulary's mean), "
        "the dictionary's bias and error 1.5.",
        "This feature adds −0.5; by size it is number 1 of them.",
    ]


def test_curves_leave_out_what_has_no_direction() -> None:
    above = {"features": torch.zeros(2, 3, 11, dtype=torch.int64), "pca": torch.zeros(0, 3, 11, dtype=torch.int64)}
    above["features"][0, 1, 5] = 3
    numbers: dict[str, list[int]] = {"features": [1, 2], "pca": []}
    levels = [level / 10 for level in range(11)]
    result = NeuronCurves("neurons of x", 10, levels, numbers, {"features": 0, "pca": 4}, above)
    assert neuron_words.of_curves({}, result) == [
        "How many neurons of x are above half of their own maximum on all 10 top examples, on average over 2 of the "
        "features: 1.5.",
        "Left out, as they fire in fewer than 10 documents: 4 principal directions.",
    ]
    nothing = replace(result, above={"features": above["pca"]}, left_out={"features": 1})
    assert neuron_words.of_curves({}, nothing) == [
        "Left out, as they fire in fewer than 10 documents: 1 of the features."
    ]  # fmt: skip


def test_a_label_probe_says_both_ends() -> None:
    sure = Interval(0.75, 0.5, 1.0)
    less = Interval(0.25, 0.125, 0.5)
    result = LabelProbe(
        ("a", "b"), "max", "neurons of x", [1, 8], {"features": [3, 1], "neurons": []},
        {"features": [less, sure], "neurons": [less, less]}, {}, [sure, less], sure, sure, (3, 4), (1, 2),
    )  # fmt: skip
    said = neuron_words.of_labels({}, result)
    assert said[:2] == [
        "1 feature tells “b” from “a” with a balanced accuracy of 0.25 (0.12 to 0.50), 0 neurons with "
        "0.25 (0.12 to 0.50); the difference is 0.75 (0.50 to 1.00).",
        "2 features tell “b” from “a” with a balanced accuracy of 0.75 (0.50 to 1.00), 0 neurons with "
        "0.25 (0.12 to 0.50); the difference is 0.25 (0.12 to 0.50).",
    ]
    assert said[2:] == [
        "All neurons of x together: 0.75 (0.50 to 1.00). Chance is 0.5.",
        "The best features first: 3, 1.",
        "Trained on 7 texts, tested on 3 others.",
    ]
    more = replace(result, chosen={"features": [3, 1], "neurons": [5, 4, 9, 8, 7, 6, 0, 2, 1]})
    assert ", 8 neurons with 0.25" in neuron_words.of_labels({}, more)[1]
    few = replace(result, chosen={"features": [3], "neurons": [5]})  # probes of k = 1 and of k = 8 are the same ones
    assert neuron_words.of_labels({}, few)[:2] == [said[0].replace("0 neurons", "1 neuron"), said[2]]


def test_shares_of_nothing_are_none() -> None:
    assert words.share_of(Share.of(0, 0)) == "0 of 0"
    assert words.share_of(Share.of(1, 4)) == "25 % (1 of 4; 5 to 70 %)"


def test_input_output_agreement_says_what_chance_would_give() -> None:
    half, few = Share.of(2, 4), Share.of(1, 4)
    match = Match(0.75, 0.5, True)
    features = [FeatureAgreement(feature, match, match, None) for feature in range(4)]
    result = Agreement(
        site="final", settings=AgreementSettings(level=0.75), left_out=1, next_token=half, own_token=few,
        meaningful=None, mean_next_token=0.75, control_next_token=0.5, mean_own_token=0.25, control_own_token=0.125,
        features=features,
    )  # fmt: skip
    said = words.of_agreement({}, result)
    assert said == [
        "Of 4 features with at least 5 examples, the logits of 50 % (2 of 4; 15 to 85 %) rank the tokens that follow "
        "their examples higher than 75 % of other features do: 25 % would by chance.",
        "For the token that they fire on: 25 % (1 of 4; 5 to 70 %).",
        "Mean percentile of the next token 0.75, under other features' logits 0.5; of the token fired on 0.25 and "
        "0.125.",
        "Left out for too few examples: 1 feature.",
    ]
    sound = words.of_agreement({}, replace(result, meaningful=Shares(3, half, Share.of(0, 0)), left_out=0))
    assert sound[2] == (
        "Of the 3 that look meaningful: the next token 50 % (2 of 4; 15 to 85 %), the one that they fire on 0 of 0."
    )
    assert sound[3:] == [said[2]]


def test_a_probe_says_one_neuron_and_the_fewest_that_tell_best() -> None:
    poor, good, chance = Interval(0.625, 0.5, 0.75), Interval(0.875, 0.75, 1.0), Interval(0.5, 0.5, 0.5)
    result = KSparseProbe(
        feature=7, coordinates="neurons of x", choose="forward", ks=[1, 2, 4], neurons=[3, 1],
        accuracy=[poor, good, good], f1=[chance, good, good], f1_cut=[2.5, 0.5, 0.5],
        random_accuracy=[chance] * 3, random_f1=[chance] * 3,
        density=0.01, n_train=(30, 4000), n_test=(10, 900),
    )  # fmt: skip
    assert neuron_words.of_probe({}, result) == [
        "1 neuron tells where it fires with a balanced accuracy of 0.62 (0.50 to 0.75), F1 0.50 (0.50 to 0.50) "
        "(at the cut that is best in training, at its own frequency); 1 at random: 0.50 (0.50 to 0.50).",
        "2 neurons tell where it fires with a balanced accuracy of 0.88 (0.75 to 1.00), F1 0.88 (0.75 to 1.00) "
        "(at the cut that is best in training, at its own frequency); 2 at random: 0.50 (0.50 to 0.50).",
        "The best first: 3, 1. Chance is 0.5.",
        "Trained on 30 tokens on which it fires and 4,000 others, tested on 10 and 900 of other documents.",
    ]
    fewer = replace(result, ks=[1, 8, 16])  # two tell anything: a probe of 8 has these two
    assert neuron_words.of_probe({}, fewer)[1].startswith("2 neurons tell where it fires")
    assert "; 8 at random: 0.50" in neuron_words.of_probe({}, fewer)[1]
    only = replace(result, ks=[1], accuracy=[good], neurons=[])
    told = neuron_words.of_probe({}, only)
    assert len(told) == 3
    assert told[1] == "The best first: none tells anything. Chance is 0.5."
