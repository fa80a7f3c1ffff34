"""The columns of a table of scores: what they are called, what they mean, and how their values are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monosemy.report.run import Row

IDENTITY = ("member", "variant", "width", "l1", "k", "noise", "lr", "seed")

# name: (heading, meaning). Fields that are not here are shown under their own name, after these.
FIELDS = {
    "member": ("member", "number of the dictionary in the grid"),
    "variant": ("variant", "kind of dictionary"),
    "width": ("width", "number of features"),
    "l1": ("L1", "coefficient of the L1 penalty"),
    "k": ("k", "features active per row: kept, aimed at or expected"),
    "noise": ("noise", "standard deviation of the noise that the encoder saw in training"),
    "lr": ("lr", "learning rate"),
    "seed": ("seed", "seed of the initial weights"),
    "failed": (
        "failed",
        "the step at which the loss was not finite: such a dictionary has no scores and is in no figure",
    ),
    "l0": ("L0", "features active per row, mean"),
    "fvu": ("FVU", "fraction of variance unexplained: 0 is perfect, 1 is no better than the mean"),
    "fvu_sites": ("FVU by site", "FVU of each site alone, in the order of the sites"),
    "explained_variance": ("EV", "explained variance: 1 − FVU"),
    "cosine": ("cosine", "cosine of activation and reconstruction, mean"),
    "mse": ("MSE", "mean squared error"),
    "dead": ("dead", "features never active on the held-out rows"),
    "alive": ("alive", "features active at least once on the held-out rows"),
    "ce_original": ("CE", "cross-entropy of the model untouched, nats per token"),
    "ce_reconstructed": ("CE rec.", "cross-entropy with the activation replaced by its reconstruction, nats per token"),
    "ce_zero": ("CE zero", "cross-entropy with the activation replaced by zero, nats per token"),
    "ce_mean": ("CE mean", "cross-entropy with the activation replaced by its mean, nats per token"),
    "ce_recovered": ("CE recovered", "(CE zero − CE rec.) / (CE zero − CE): 1 is no loss"),
    "ce_reconstructed_sites": ("CE rec. by site", "CE rec., each site replaced alone, in the order of the sites"),
    "ce_recovered_sites": (
        "CE recovered by site",
        "CE recovered, each site replaced alone, in the order of the sites",
    ),
    "kl_sites": ("KL by site", "KL, each site replaced alone, in the order of the sites"),
    "kl": ("KL", "KL divergence from the model's predictions to the reconstruction's, nats per token"),
    "perplexity_ratio": ("ppl ratio", "perplexity with the reconstruction over perplexity without"),
    "shrinkage": ("shrinkage", "E‖x̂‖² over E⟨x, x̂⟩: below 1 where codes undershoot"),
    "norm_ratio": ("norm ratio", "norm of the reconstruction over norm of the activation, mean"),
    "l1_norm": ("‖c‖₁", "sum of a row's codes, mean"),
    "mmcs_truth": ("MMCS", "mean largest cosine of the true features with a learned one"),
    "mcc_truth": ("MCC", "mean cosine of true and learned features matched one to one"),
    "exclusive_mmcs": ("excl. MMCS", "one-to-one cosines over the larger number of features: copies and junk cost"),
    "recovered": ("recovered", "share of the true features with a cosine above 0.9"),
    "redundancy": ("copies", "learned copies per recovered feature"),
    "f1": ("F1", "of firing, mean over matched true features"),
    "ece": ("ECE", "calibration error: mean distance of the probability of presence from the share that are present"),
    "brier": ("Brier", "mean square of the probability of presence minus presence"),
    "code_slope": ("slope", "learned on true codes: 1 is no shrinkage"),
    "detection_limit": ("limit", "1 / held-out rows: densities below it cannot be told from 0"),
    "mmcs_with_larger": ("MMCS larger", "mean largest cosine with the features of the larger dictionaries of equal L1"),
    "shared_with_next": ("shared", "features that the next larger width of equal L1 has too (cosine above 0.95)"),
    "mmcs_other_seed": ("MMCS seed", "mean largest cosine with the features of the same dictionary from another seed"),
}


def columns(rows: Sequence[Row]) -> tuple[list[str], list[str], list[str]]:
    """The fields to show, their headings, and the fields left out because no member has them."""
    present = list(dict.fromkeys([name for name in FIELDS if any(name in row for row in rows)] + _extras(rows)))
    names = [name for name in present if any(row.get(name) is not None for row in rows)]
    return names, [_heading(name) for name in names], [_heading(name) for name in present if name not in names]


def shown(name: str, value: Any) -> str:
    """A field as text: settings as they were given, scores with four significant digits, undefined blank; of several
    sites one beside the other, undefined as a dash."""
    if isinstance(value, list):
        return " / ".join(shown(name, each) or "–" for each in value)
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if name in IDENTITY else f"{value:#.4g}".rstrip(".")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def identity(rows: Sequence[Row], member: int | None) -> str:
    """A member in words: member 5 (relu, width 512, L1 0.3, lr 0.001, seed 0)."""
    row = next((row for row in rows if row["member"] == member), {})
    known = [f"{_heading(name)} {shown(name, row[name])}" for name in IDENTITY[2:] if row.get(name) is not None]
    return f"member {member} ({', '.join([str(row['variant']), *known])})" if row else f"member {member}"


def _heading(name: str) -> str:
    return FIELDS.get(name, (name.replace("_", " "),))[0]


def _extras(rows: Sequence[Row]) -> list[str]:
    return [name for row in rows for name in row if name not in (*FIELDS, "failure")]  # that is where one points
