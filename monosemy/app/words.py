"""What the result of an analysis says, in a few sentences: what a person would write under its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monosemy.analysis.ablation import AblationEffect, MeanEffect
from monosemy.analysis.agreement import Agreement
from monosemy.analysis.attribution import LogitAttribution, PromptAttribution, VocabularyLogits
from monosemy.analysis.chart import visible
from monosemy.analysis.context import ContextAblation
from monosemy.analysis.steering import Steering
from monosemy.analysis.steering_agreement import SteeringAgreement
from monosemy.analysis.vocabulary import VocabularyScan
from monosemy.metrics.calibration import Interval
from monosemy.metrics.interval import Share

Values = Mapping[str, Any]


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}".replace("-", "−")


def counted(count: int, one: str, many: str) -> str:
    """A count with its noun."""
    return f"{count:,} {one if count == 1 else many}"


def sure(interval: Interval) -> str:
    """A score with its interval."""
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def percent(share: float) -> str:
    """A share of one in per cent."""
    return f"{100 * share:.0f} %"


def share_of(share: Share) -> str:
    """A share with its interval, which no cases have not."""
    if share.share is None or share.low is None or share.high is None:
        return "0 of 0"
    spread = f"{100 * share.low:.0f} to {percent(share.high)}"
    return f"{percent(share.share)} ({share.count:,} of {share.total:,}; {spread})"


def of_scan(_values: Values, scan: VocabularyScan) -> list[str]:
    """How many tokens raise and lower the feature."""
    up = counted(scan.n_increase, "token increases", "tokens increase")
    down = f"{scan.n_decrease:,} {'decreases' if scan.n_decrease == 1 else 'decrease'}"
    same = f"{scan.n_unchanged:,} {'leaves' if scan.n_unchanged == 1 else 'leave'}"
    said = [f"{up} it, {down} it, {same} it unchanged."]
    done = len(scan.ids_V)
    if done < scan.n_tokens:
        said.append(f"So far: {done:,} of {scan.n_tokens:,} tokens.")
    if scan.where != "alone":
        base = "As the text stands" if scan.where == "replace" else "Without any"
        said.append(f"{base}, its code at the last token is {number(scan.base)}.")
    if scan.strongest:
        first = ", ".join(f"“{visible(token.text)}” ({number(token.value)})" for token in scan.strongest[:3])
        said.append(f"It fires with {counted(scan.n_fires, 'token', 'tokens')}, most with {first}.")
    elif done:
        said.append("It fires with none of them.")
    if scan.n_implausible and scan.plausible is not None:
        left = counted(scan.n_implausible, "token", "tokens")
        said.append(f"Left out, as the model gives them less than {scan.plausible:g} there: {left}.")
    return said


def of_context(_values: Values, result: ContextAblation) -> list[str]:
    """What the feature is at the last token, and how far that depends on the others."""
    changes = [change for change in result.change if change is not None]
    said = [f"Its code at the last token is {number(result.base)}."]
    if changes and result.base > 0:
        needed = sum(change < -result.base / 2 for change in changes)
        said.append(
            f"Leaving out {needed:,} of {counted(len(changes), 'token', 'tokens')} takes more than half of it; "
            f"the changes go from {number(min(changes))} to {number(max(changes))}."
        )
    elif changes:
        said.append(f"Without one token it is at most {number(max(changes))}.")
    return said


def of_steering(_values: Values, result: Steering) -> list[str]:
    """What the change did to the feature and to the text."""
    said = [] if result.maximum is None else [f"Strength 1 is its maximum, a code of {number(result.maximum)}."]
    plain, steered = result.plain, result.steered
    if plain.codes and steered.codes:
        codes, odds = ([sum(each) / len(each) for each in pair] for pair in (
            (plain.codes, steered.codes), (plain.log_probs, steered.log_probs),
        ))  # fmt: skip
        said.append(f"Its mean code on new tokens: {number(codes[0])} without the change, {number(codes[1])} with it.")
        said.append(
            f"The unchanged model gives a token of the text without it {number(odds[0])} nats on average, "
            f"of the steered one {number(odds[1])}."
        )
    return said


def of_steering_agreement(_values: Values, result: SteeringAgreement) -> list[str]:
    """Whether the feature fires more on text steered by it."""
    if not result.features:
        return ["Every text was empty, so there is nothing to compare."]
    (one,) = result.features
    means = (
        f"Its mean code on new tokens, over {counted(one.prompts, 'text', 'texts')} of each kind: "
        f"{number(one.plain)} on plain text, {number(one.steered)} on text steered by it, "
        f"{number(one.controlled)} on text steered by feature {one.control}, drawn at random."
    )
    if result.silent:
        return [means, "It fires on none of them, so they say nothing of it."]
    others = {"on plain text": one.plain, "on the other's": one.controlled}
    above = " and ".join(name for name, value in others.items() if one.steered > value)
    if not above:
        return [means, "It does not fire more on text steered by it."]
    return [means, f"It fires more on text steered by it than {above}."]


def of_ablation(_values: Values, result: AblationEffect) -> list[str]:
    """What its removal does to log p, on average, and how much of that another feature's would not do."""
    ways = {"full": "through the rest of the model", "direct": "along the linear path alone"}
    said = []
    for way, through in ways.items():
        if told := _at_both(result.means, way):
            said.append(f"Without it log p changes {through} by {told}, where it fires.")
        if told := _at_both(result.excess, way):
            said.append(f"Of that, beyond what another active feature does that is taken out at the same size: {told}.")
    if not said:
        said.append("It fires on no token with a next one, so there is no effect to average.")
    if result.no_direct is not None:
        said.append(f"No direct effect: {result.no_direct}.")
    return said


def _at_both(means: Mapping[str, MeanEffect | None], way: str) -> str:
    """The effects at the two tokens that are told of; "" where there are none."""
    places = {"next_token": "at the true next token", "suppressed": "at the most suppressed one"}
    found = [(where, means.get(f"{way} {what}")) for what, where in places.items()]
    return " and ".join(f"{_effect(mean)} {where}" for where, mean in found if mean is not None)


def _effect(mean: MeanEffect) -> str:
    if mean.low is None or mean.high is None:
        return f"{number(mean.mean)} nats"
    return f"{number(mean.mean)} nats ({number(mean.low)} to {number(mean.high)} over {mean.texts:,} texts)"


def of_logits(_values: Values, result: LogitAttribution) -> list[str]:
    """How far its logits spread, and whether a few tokens stand out."""
    return [_spread(result.with_norm, "With the final norm folded in"), _spread(result.without_norm, "Without it")]


def _spread(logits: VocabularyLogits, way: str) -> str:
    shape = "" if logits.skew is None or logits.kurtosis is None else (
        f", skew {number(logits.skew)}, excess kurtosis {number(logits.kurtosis)} (0 and 0: no token stands out)"
    )  # fmt: skip
    return f"{way}: logits with a standard deviation of {number(logits.deviation)} around {number(logits.mean)}{shape}."


def of_attribution(values: Values, result: PromptAttribution) -> list[str]:
    """What is added to the token's logit, and this feature's part of it."""
    token = f"“{visible(result.target_text)}”"
    said = [
        f"The model gives {token} a probability of {number(result.target_probability)} after this text.",
        f"{counted(result.n_active, 'feature fires', 'features fire')} at the last token; directly they add "
        f"{number(result.features)} to its logit (above the vocabulary's mean), "
        f"the dictionary's bias and error {number(result.rest)}.",
    ]
    shown = [each.feature for each in result.contributions]
    own = values["feature"]
    if own in shown:
        place = shown.index(own)
        added = number(result.contributions[place].logit)
        said.append(f"This feature adds {added}; by size it is number {place + 1} of them.")
    elif len(shown) < result.n_active:
        said.append(f"This feature is not among the {len(shown):,} that matter most.")
    else:
        said.append("This feature does not fire there, so it adds nothing.")
    return said


def of_agreement(_values: Values, result: Agreement) -> list[str]:
    """For how many features the logits match."""
    settings, sound = result.settings, result.meaningful
    said = [
        f"Of {len(result.features):,} features with at least {settings.at_least} examples, the logits of "
        f"{share_of(result.next_token)} rank the tokens that follow their examples higher than "
        f"{percent(settings.level)} of other features do: {percent(1 - settings.level)} would by chance.",
        f"For the token that they fire on: {share_of(result.own_token)}.",
    ]
    if sound is not None:
        said.append(
            f"Of the {sound.features:,} that look meaningful: the next token {share_of(sound.next_token)}, "
            f"the one that they fire on {share_of(sound.own_token)}."
        )
    said.append(
        f"Mean percentile of the next token {number(result.mean_next_token)}, under other features' logits "
        f"{number(result.control_next_token)}; of the token fired on {number(result.mean_own_token)} and "
        f"{number(result.control_own_token)}."
    )
    if result.left_out:
        said.append(f"Left out for too few examples: {counted(result.left_out, 'feature', 'features')}.")
    return said
