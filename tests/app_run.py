"""A small run to serve: two dictionaries over hostile text in several scripts, scored and indexed; no model on disk."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from feature_worlds import TableModel, grid, whole_number_dictionary

from monosemy.analysis.index import features
from monosemy.artifact import Parent, make
from monosemy.data.tokens import tokenize
from monosemy.dictionaries.store import DictionaryStore
from monosemy.draft import Draft

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{7*7}}"
NAME = "<img src=x onerror=alert(1)>&amp;{{7*7}}"
TEXTS = {
    NAME: f"<b>bold</b> {HOSTILE} &amp; so on\n\tand \u202eback\u202c again",
    "ar/قراءة": "كان يا ما كان في قديم الزمان ملك عادل يحكم مدينة كبيرة، and so on",
    "ja/昔話": "むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。\n山へ行きました。",
    "plain": "Once upon a time there was a little girl who lived in a little house. " * 3,
}
WIDTH = 24


def app_run(folder: Path) -> Path:
    """The run's folder: tokens, dictionaries (two members), scores, features and features-1, one for each member."""
    texts = folder / "texts"
    texts.mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in TEXTS.values()]
    (texts / f"{NAME.replace('/', '_')}.jsonl").write_text("\n".join(lines * 4))
    run = folder / "run"
    store = tokenize(str(texts), out=run / "tokens", tokenizer="bpe:257")
    dictionaries = [whole_number_dictionary(WIDTH, seed) for seed in (0, 1)]
    made = DictionaryStore.open(grid(run / "dictionaries", dictionaries))
    scores(run / "scores", made)
    model = TableModel()
    for member, name in enumerate(("features", "features-1")):
        features(made, member=member, model=model, tokens=store, out=run / name, top=6)  # type: ignore[arg-type]
    return run


def scores(path: Path, made: DictionaryStore) -> None:
    """A table of scores; member 1 is chosen, for a reason that is hostile text."""
    rows = [
        {**member, "noise": None, "l0": 3.0 + member["member"], "fvu": 0.25 / (1 + member["member"]), "dead": 1}
        for member in made.members
    ]

    def write(draft: Draft) -> dict[str, object]:
        draft.file("scores.json").write_text(json.dumps(rows))
        return {"chosen": 1, "why": f"it has the lowest FVU {HOSTILE}"}

    parent = Parent("dictionaries", made.artifact.id, str(made.artifact.path))
    make(path, "scores", {"note": HOSTILE}, {"dictionaries": parent}, write)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(app_run(Path(sys.argv[1])))
