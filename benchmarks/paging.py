"""Lists, searches and pages of a million features: how long each takes, and how much memory.

    python -m benchmarks.paging [--features 16384 1048576] [--times 5]

For each size a run is made in a temporary folder, through the writers of the package: a feature index with numbers,
examples and tokens drawn at random, the directions of its dictionary (d_in 512), and neuron verdicts beside it, which
every list of the app joins. A server is started on it. Every request is sent `times` times, each time at an address of
its own (a parameter that no page reads), so that no answer comes from the cache of pages: `first ms` is the first,
which counts what later ones remember, `again ms` the median of the others; `server ms` is the server's processor time,
which a busy machine stretches less. The target: every list within 0.5 s for a
million features, within 50 ms for 16,384.

A million take 4 GB of disk and about two minutes to make.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urlsplit

import torch

from benchmarks.record import write_record
from benchmarks.serve import cpu_s, resident_mb, serving
from monosemy.analysis import index as writer
from monosemy.analysis import verdict_store
from monosemy.analysis.feature_table import COLUMNS
from monosemy.analysis.firings import bin_edges
from monosemy.analysis.index import FeatureSettings
from monosemy.analysis.texts import TokenTexts
from monosemy.analysis.token_table import FEATURE_LISTS, TOKEN_LISTS
from monosemy.analysis.verdict import VERDICTS, Evidence
from monosemy.app.feature_list import ROWS
from monosemy.artifact import Artifact, Parent, make
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.baselines import LinearDictionary
from monosemy.dictionaries.store import member_file, save_dictionary
from monosemy.draft import Draft
from monosemy.files import save_tensors
from monosemy.runtime import generator_for

D_IN, SITE = 512, "layers.2.resid_post"
N_TOKENS = 10**7  # that the index says it saw
DEAD = 0.05  # share of the features
BINS = slice(232, 288)  # of the histogram: seven octaves
DEEP = 10_000  # the page that is deep
MODEL = Parent("model", "0" * 64, "nowhere")
SETTINGS = FeatureSettings(
    top=2, uniform=1, quantiles=1, per_quantile=1, random=1, before=8, after=4, n_logits=5, n_tokens=5
)


def save_tokens(folder: Path) -> TokenStore:
    """Packed rows of documents of made-up words, a few of them frequent (Zipf)."""
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 8))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, 1 + len(words))]
    lines = [json.dumps({"text": " ".join(dice.choices(words, weights, k=200))}) for _ in range(500)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return tokenize(str(folder / "text.jsonl"), tokenizer="bpe:4096", context=128, out=folder / "run" / "tokens")


def save_grid(path: Path, n: int) -> Artifact:
    """One dictionary of random directions."""

    def write(draft: Draft) -> dict[str, Any]:
        W_dec = torch.randn(n, D_IN, generator=generator_for("directions"))
        save_dictionary(draft.file(member_file(0)), LinearDictionary({"W_dec": W_dec, "b_dec": torch.zeros(D_IN)}))
        member = {"member": 0, "variant": "relu", "width": n, "l1": 0.1, "k": None, "lr": 1e-3, "seed": 0}
        return {"members": [member], "d_in": D_IN, "site": SITE}

    return make(path, "dictionaries", {"made": "at random"}, {}, write)


def save_index(path: Path, n: int, grid: Artifact, store: TokenStore) -> Artifact:
    """A feature index of random numbers, written as `features` writes one."""
    dice = generator_for("index", n)

    def examples(size: int, alive_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        offset_NE = torch.randint(len(store.tokens_T), (n, size), generator=dice)
        values_NEW = torch.rand(n, size, SETTINGS.window.size, generator=dice)
        values_NEW *= values_NEW > 0.8
        values_NEW[..., SETTINGS.before] = 1 + torch.rand(n, size, generator=dice).sort(dim=1, descending=True).values
        return offset_NE.masked_fill_(~alive_N[:, None], -1), values_NEW

    def lists(groups: int, size: int, numbers: int) -> list[torch.Tensor]:
        """Numbers, the low ones often, with falling counts and their sums."""
        number_GE = (numbers * torch.rand(groups, size, generator=dice) ** 4).int()
        count_GE = torch.randint(1, 100, (groups, size), generator=dice).sort(dim=1, descending=True).values
        return [number_GE, count_GE, count_GE * torch.rand(groups, size, generator=dice)]

    def write(draft: Draft) -> dict[str, Any]:
        alive_N = torch.rand(n, generator=dice) >= DEAD
        count_N = (N_TOKENS * 10 ** (-1 - 5 * torch.rand(n, generator=dice))).long() * alive_N
        mcs_N = torch.rand(n, generator=dice)
        groups = {name: examples(size, alive_N) for name, size in (("top", 2), ("uniform", 1), ("quantile", 1))}
        groups["random"] = examples(1, torch.ones(n, dtype=torch.bool))
        groups["random"][1].zero_()
        documents = writer._named(writer._write_examples(draft, groups, store, SETTINGS.window), store)
        tokens = {
            **{f"{name}_token": lists(n, SETTINGS.n_tokens, store.vocab_size) for name in FEATURE_LISTS},
            **{f"{name}_feature": lists(store.vocab_size, SETTINGS.n_token_features, n) for name in TOKEN_LISTS},
        }
        named = {
            f"{name}{part}": tensor
            for name, tensors in tokens.items()
            for part, tensor in zip(("", "_count", "_sum"), tensors, strict=True)
        }
        for name in FEATURE_LISTS:
            named[f"{name}_token"][~alive_N] = -1
        seen_V = 100 + torch.bincount(store.tokens_T.long(), minlength=store.vocab_size)
        save_tensors(draft.file("tokens.safetensors"), {"seen": seen_V, **named})
        counts = SimpleNamespace(count_N=count_N, sum_N=count_N * (0.5 + torch.rand(n, generator=dice)).double())
        top = SimpleNamespace(values_NEW=groups["top"][1] * alive_N[:, None, None], window=SETTINGS.window)
        given = counts, top, N_TOKENS, mcs_N, documents, {"seen": seen_V, **named}, TokenTexts(store.tokenizer)
        writer._write_tables(draft, *given)  # type: ignore[arg-type]
        counts_NH = torch.randint(100, (n, BINS.stop - BINS.start), generator=dice) * alive_N[:, None]
        edges = bin_edges()[BINS.start : BINS.stop + 1]
        save_tensors(draft.file("histogram.safetensors"), {"edges": edges, "counts": counts_NH})
        logits = {}
        for side in ("top", "bottom"):
            logits[f"{side}_ids"] = torch.randint(store.vocab_size, (n, 5), generator=dice).int()
            logits[f"{side}_values"] = torch.randn(n, 5, generator=dice)
        save_tensors(draft.file("logits.safetensors"), logits)
        shutil.copyfile(store.artifact.path / "tokenizer" / "tokenizer.json", draft.file("tokenizer/tokenizer.json"))
        about = {"n_features": n, "d_in": D_IN, "site": SITE, "n_tokens": N_TOKENS, "detection_limit": 1 / N_TOKENS}
        return {**about, "n_dead": int((~alive_N).sum()), "mcs_sibling": None, "logits": True}

    parents = {"dictionaries": grid.as_parent(), "model": MODEL, "tokens": store.artifact.as_parent()}
    return make(path, "features", {"member": 0, **asdict(SETTINGS)}, parents, write)


def save_verdicts(path: Path, n: int, index: Artifact) -> None:
    """Verdicts and evidence at random."""

    def evidence() -> Iterator[Evidence]:
        dice = random.Random(0)
        for i in range(n):
            a, b, c = sorted(dice.random() for _ in range(3))
            verdict = VERDICTS[dice.randrange(len(VERDICTS))]
            yield Evidence(i, verdict, dice.randrange(D_IN), a, [a, b], c, a / c, b / c, 100 * c, dice.randrange(10**6))

    def write(draft: Draft) -> dict[str, Any]:
        verdict_store._write(draft.file(verdict_store.FILE), SimpleNamespace(evidence=evidence()))  # type: ignore[arg-type]
        about = {"tokens": 10**6, "neurons": D_IN, "coordinates": f"coordinates of {SITE}"}
        return {**about, "counts": dict.fromkeys(VERDICTS, n // len(VERDICTS))}

    make(path, "verdicts", {"max_tokens": None}, {"features": index.as_parent()}, write)


def requests(n: int, token: str) -> dict[str, str]:
    """What is asked for, by what it is called."""

    def features(**state: object) -> str:
        return f"/features?{urlencode(state)}"

    deep = min(DEEP - 1, n // ROWS - 1) * ROWS
    many = {"density_min": 1e-5, "dead": "no"}
    few = {"density_min": 0.0123, "density_max": 0.0124}
    sorts = [*(column for column in COLUMNS if column != "count"), "verdict"]
    return {
        "features, first page": "/features?",
        **{f"by {column}, {way}": features(sort=column, desc=desc)
           for column in sorts for desc, way in ((0, "rising"), (1, "falling"))},
        "density from … to, few left": features(**few, sort="max", desc=1),
        "density and dead, most left, by max": features(**many, sort="max", desc=1),
        "MCS, max and density, by mean": features(mcs_other_seed_min=0.5, max_min=1.5, density_min=1e-4, sort="mean"),
        "verdict, by MCS": features(verdict=VERDICTS[1], sort="mcs_other_seed", desc=1),
        "verdict and density, by max": features(verdict=VERDICTS[1], density_min=1e-4, sort="max", desc=1),
        "text “e”, by density": features(q="e", sort="density", desc=1),
        "text “the” and MCS, by max": features(q="the", mcs_other_seed_min=0.8, sort="max", desc=1),
        f"page {deep // ROWS + 1:,}, by number": features(at=deep),
        f"page {deep // ROWS + 1:,}, by density": features(sort="density", desc=1, at=deep),
        f"page {deep // ROWS + 1:,}, by top token": features(sort="top_token", at=deep),
        f"page {deep // ROWS + 1:,}, by verdict": features(sort="verdict", at=deep),
        "a page in the middle, with a filter": features(**many, sort="max", desc=1, at=int(0.35 * deep)),
        "search box": f"/search?{urlencode({'q': token})}",
        "features of a token": f"/token?{urlencode({'q': token})}",
        "a feature": f"/features/{n // 2}?",
        "a feature’s JSON": f"/features/{n // 2}.json?",
        "a feature deep in a list": f"/features/{n // 3}?{urlencode({'sort': 'density', 'desc': 1, 'at': deep})}",
        "neighbours": f"/features/{n // 2}/neighbours.json?",
        "runs": "/?",
    }  # fmt: skip


def measured(address: str, process: int, path: str, times: int) -> dict[str, Any]:
    """Milliseconds until the whole answer is there: of the first, and the median of the others."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port)
    spent, used = [], cpu_s(process)
    for number in range(times):
        began = time.perf_counter()
        connection.request("GET", f"{path}&n={number}")
        answer = connection.getresponse()
        body = answer.read()
        spent.append(1000 * (time.perf_counter() - began))
        assert answer.status in (200, 303), (path, answer.status, body)
    connection.close()
    again, cpu = statistics.median(spent[1:] or spent), 1000 * (cpu_s(process) - used) / times
    return {"first ms": spent[0], "again ms": again, "server ms": cpu, "kB": len(body) / 1000}


def main() -> None:
    """Make the runs, ask, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, nargs="+", default=[2**14, 2**20])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--name", default="paging", help="of the record; empty: write none")
    settings = parser.parse_args()
    rows, sizes = [], []
    for n in settings.features:
        with tempfile.TemporaryDirectory() as name:
            began, run = time.perf_counter(), Path(name) / "run"
            store = save_tokens(Path(name))
            index = save_index(run / "features", n, save_grid(run / "dictionaries", n), store)
            save_verdicts(run / "verdicts", n, index)
            made, opened = time.perf_counter() - began, time.perf_counter()
            token = TokenTexts(store.tokenizer).of(int(store.tokens_T[0]))
            with serving(run) as (address, process):
                size = {"features": n, "made s": made, "started s": time.perf_counter() - opened}
                for asked, path in requests(n, token).items():
                    rows.append({"features": n, "request": asked, **measured(address, process, path, settings.times)})
                    print(rows[-1], flush=True)
                memory = {"MB": resident_mb(process), "MB without mapped files": resident_mb(process, "RssAnon")}
                disk = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
                sizes.append({**size, "GB on disk": disk / 1e9, **memory})
                print(sizes[-1], flush=True)
    if settings.name:
        numbers = " ".join(map(str, settings.features))
        print(write_record(settings.name, rows, f"python -m benchmarks.paging --features {numbers}", sizes))


if __name__ == "__main__":
    main()
