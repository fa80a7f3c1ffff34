"""Seconds for a full vocabulary scan and a context ablation on a Pythia-70M-shaped model (random weights).

    python benchmarks/vocabulary.py [--site layers.2.mlp_act] [--tokens 10] [--width 16384] [--subset 2048]

Every scan is a whole `vocabulary_scan` of one feature: all 50,304 tokens, texts and counts included. Beside it what one
would write by hand, full forward passes over whole rows, and passes that stop at the site; these two run on a subset of
the vocabulary, and their seconds are extrapolated to all of it in proportion. With `--clock cpu` processor time counts,
of all threads together, instead of the wall clock: use it with OMP_NUM_THREADS=1 on a busy machine.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harvest import VOCABULARY, save_model
from record import table, write_record

from monosemy.analysis.context import context_ablation
from monosemy.analysis.lab import Lab
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.models.continuation import Slot
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import full_rate_products

BATCH_ROWS = 256


def save_tokens(folder: Path) -> TokenStore:
    """A little text under a tokenizer of as many made-up words as the model has tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text(" ".join(f"w{i}" for i in range(100)))
    return tokenize(
        str(folder / "text.txt"), tokenizer=str(folder / "tokenizer.json"), context=64, eos="no", out=folder / "tokens"
    )


def lab_of(model: LanguageModel, tokens: TokenStore, site: str, width: int) -> Lab:
    """A random dictionary on the model."""
    W_ND = torch.randn(width, model.width_of(site), generator=torch.Generator().manual_seed(0)) / 32
    return Lab(model, ReluDictionary({"W_enc": W_ND, "b_enc": torch.zeros(width), "W_dec": W_ND}), site, tokens)


def by_hand(lab: Lab, slot: Slot, count: int, whole: bool) -> Callable[[], None]:
    """Whole rows: the whole network with its head, or up to the site."""

    def run() -> None:
        with torch.inference_mode(), full_rate_products(lab.model.device):
            for ids_B in torch.arange(count).split(BATCH_ROWS):
                rows_BC = slot.rows(ids_B)
                lab.model.logits(rows_BC) if whole else lab.model.capture(rows_BC, [lab.site])

    return run


def main() -> None:
    """Run the benchmark, print the tables, write the record."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--site", default="layers.2.mlp_act")
    options.add_argument("--tokens", type=int, default=10, help="of the prompt")
    options.add_argument("--width", type=int, default=16384, help="of the dictionary")
    options.add_argument("--subset", type=int, default=2048, help="tokens of the vocabulary for the rows by hand")
    options.add_argument("--where", nargs="+", default=["append", "prepend", "replace", "alone"])
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = options.parse_args()
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time

    def seconds(work: Callable[[], object]) -> float:
        began = clock()
        work()
        return clock() - began

    ids = torch.randint(VOCABULARY, (chosen.tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = LanguageModel.load(save_model(folder / "model"), device="cpu")
        lab = lab_of(model, save_tokens(folder), chosen.site, chosen.width)
        by_hand(lab, Slot(ids, []), BATCH_ROWS, whole=True)()
        rows: list[dict[str, Any]] = []
        for arm, whole in (("full forward, whole rows", True), ("stopped at the site, whole rows", False)):
            took = seconds(by_hand(lab, Slot(ids, []), chosen.subset, whole))
            rows.append({"arm": arm, "tokens run": chosen.subset, "s for 50,304": took * VOCABULARY / chosen.subset})
        for where in chosen.where:
            position = chosen.tokens // 2 if where == "replace" else None
            took = seconds(partial(vocabulary_scan, lab, 7, ids, where, position=position))
            rows.append({"arm": f"scan: {where}", "tokens run": VOCABULARY, "s for 50,304": took})
        for row in rows:
            row["× full forward"] = rows[0]["s for 50,304"] / row["s for 50,304"]
        text = torch.randint(VOCABULARY, (64,), generator=torch.Generator().manual_seed(2)).tolist()
        context_ablation(lab, 7, text)
        took = min(seconds(partial(context_ablation, lab, 7, text)) for _ in range(3))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    more = [{"what": "context ablation, 64 tokens, s (least of 3)", "figure": took}]
    more.append({"what": "peak memory of the process, MB", "figure": peak_mb})
    print("\n".join([*table(rows), "", *table(more)]))
    print(write_record("vocabulary", rows, f"python {' '.join(sys.argv)}", more))


if __name__ == "__main__":
    main()
