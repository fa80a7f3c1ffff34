"""Reviews: which features are chosen, what is kept and how surely, the spreadsheet, agreement between reviewers."""

from __future__ import annotations

import csv
import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from monosemy.app.review_agreement import agreement, cohens_kappa
from monosemy.app.review_queue import MOST, Queued, QueueSettings, queue_of
from monosemy.app.reviews import LONGEST_NOTE, VERDICTS, Review, Reviews, Session
from monosemy.runtime import UsageError


def mcs_of(count: int, known: bool = True) -> dict[int, float | None]:
    """Features whose MCS is a shuffled order, each value once."""
    order = np.random.default_rng(1).permutation(count)
    return {i: float(order[i]) / count if known else None for i in range(count)}


def session_of(reviews: Reviews, features: list[int], name: str = "seventy") -> Session:
    queue = [Queued(feature, "top" if place % 2 else "random", feature / 100) for place, feature in enumerate(features)]
    return reviews.create(name, "abc", 0, QueueSettings(count=len(features)), queue)


def test_the_top_are_those_with_the_highest_mcs() -> None:
    features = mcs_of(50)
    queue = queue_of(features, QueueSettings(rule="top", count=7))
    assert {entry.feature for entry in queue} == set(sorted(features, key=lambda i: features[i] or 0)[-7:])
    assert {entry.chosen for entry in queue} == {"top"}
    assert all(entry.mcs == features[entry.feature] for entry in queue)


def test_both_takes_half_by_rank_and_half_by_chance_in_one_order() -> None:
    features = mcs_of(200)
    queue = queue_of(features, QueueSettings(rule="both", count=71))
    assert [entry.chosen for entry in queue].count("top") == 36
    assert len({entry.feature for entry in queue}) == 71
    chosen = [entry.chosen for entry in queue]
    assert chosen not in (sorted(chosen), sorted(chosen, reverse=True))  # mixed: the place tells nothing
    assert queue == queue_of(features, QueueSettings(rule="both", count=71))
    assert queue != queue_of(features, QueueSettings(rule="both", count=71, seed=1))


def test_random_features_come_equally_often() -> None:
    features = mcs_of(10, known=False)
    drawn = [e.feature for seed in range(400) for e in queue_of(features, QueueSettings("random", 3, seed))]
    counts = np.bincount(drawn, minlength=10)
    assert counts.sum() == 1200
    assert np.abs(counts - 120).max() < 5 * np.sqrt(120)


def test_a_queue_cannot_be_longer_than_the_dictionary_and_top_needs_an_mcs() -> None:
    assert len(queue_of(mcs_of(5), QueueSettings("both", 70))) == 5
    assert len(queue_of(mcs_of(5), QueueSettings("top", 70))) == 5
    with pytest.raises(UsageError, match="second seed"):
        queue_of(mcs_of(5, known=False), QueueSettings("top", 2))
    with pytest.raises(UsageError, match="random"):
        QueueSettings(rule="best")
    with pytest.raises(UsageError, match="count"):
        QueueSettings(count=MOST + 1)


def test_verdicts_are_kept_and_the_newest_counts_and_nothing_is_lost(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "reviews.sqlite")
    session = session_of(reviews, [7, 3, 5])
    assert reviews.queue(session.id) == [7, 3, 5]
    assert (session.blind, session.count, reviews.sessions()) == (True, 3, [session])
    reviews.record(session.id, 7, "Ada", "mixed", "two things", 110.5)
    reviews.record(session.id, 3, "Ada", "dead")
    reviews.record(session.id, 7, " Ada ", "mostly", "on second thoughts", 20)
    reviews.record(session.id, 7, "Bo", "monosemantic")
    standing = {(r.feature, r.reviewer): r.verdict for r in reviews.standing(session.id)}
    assert standing == {(3, "Ada"): "dead", (7, "Ada"): "mostly", (7, "Bo"): "monosemantic"}
    assert [r.note for r in reviews.history(session.id)] == ["two things", "", "on second thoughts", ""]


def test_undo_takes_back_the_newest_that_stands_one_after_the_other(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "reviews.sqlite")
    session = session_of(reviews, [1, 2, 3])
    for feature in (1, 2):
        reviews.record(session.id, feature, "Ada", "mixed", f"note {feature}")
    reviews.record(session.id, 3, "Bo", "dead")
    undone = [reviews.undo(session.id, "Ada") for _ in range(3)]
    assert [review and review.feature for review in undone] == [2, 1, None]
    assert [(r.feature, r.reviewer) for r in reviews.standing(session.id)] == [(3, "Bo")]
    assert len(reviews.history(session.id)) == 5
    reviews.record(session.id, 1, "Ada", "mostly")
    assert {r.feature: r.verdict for r in reviews.standing(session.id)} == {3: "dead", 1: "mostly"}


def test_what_cannot_be_kept_is_refused_by_name(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "reviews.sqlite")
    with pytest.raises(UsageError, match="session"):
        reviews.standing(1)
    assert not reviews.path.exists()  # looking makes no file
    session = session_of(reviews, [1])
    for reason, arguments in {
        "verdict": (session.id, 1, "Ada", "splendid"),
        "`feature` \\(=2\\) is not in the queue": (session.id, 2, "Ada", "mixed"),
        "`session` \\(=99\\)": (99, 1, "Ada", "mixed"),
        "reviewer": (session.id, 1, "  ", "mixed"),
        "note": (session.id, 1, "Ada", "mixed", "x" * (LONGEST_NOTE + 1)),
        "seconds": (session.id, 1, "Ada", "mixed", "", float("nan")),
    }.items():
        with pytest.raises(UsageError, match=reason):
            reviews.record(*arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="name"):
        session_of(reviews, [1], name="")
    assert reviews.history(session.id) == []
    assert len(reviews.sessions()) == 1


def test_many_may_write_at_once(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "reviews.sqlite")
    session = session_of(reviews, list(range(10)))

    def review(name: str) -> None:
        for feature in range(10):
            reviews.record(session.id, feature, name, VERDICTS[feature % 5])

    threads = [threading.Thread(target=review, args=(f"reviewer {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reviews.standing(session.id)) == 80


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "reviews.sqlite"
    session = session_of(Reviews(path), list(range(1000)))
    program = (
        "import sys; from monosemy.app.reviews import Reviews; reviews = Reviews(sys.argv[1])\n"
        "for feature in range(1000):\n"
        f"    reviews.record({session.id}, feature, 'Ada', 'mixed', f'note {{feature}}')\n"
        "    print(feature, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.strip() == "20":
                break
        writer.send_signal(signal.SIGKILL)
        told = 20 + len(writer.stdout.read().split())
    assert writer.returncode == -signal.SIGKILL
    assert told < 999  # it was killed in the middle
    notes = [review.note for review in Reviews(path).standing(session.id)]
    assert notes[: told + 1] == [f"note {feature}" for feature in range(told + 1)]
    assert len(notes) <= told + 2  # at most the one whose acknowledgement was on its way
    Reviews(path).record(session.id, 999, "Ada", "dead")  # and the file is fit for more


def test_the_spreadsheet_holds_what_stands_and_no_note_is_a_formula(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "reviews.sqlite")
    session = session_of(reviews, [30, 10, 20])
    reviews.record(session.id, 10, "Bo", "mixed", '=HYPERLINK("http://x")', 12.5)
    reviews.record(session.id, 30, "@Ada", "dead", 'says "no",\nlong')
    rows = list(csv.DictReader(io.StringIO(reviews.table(session.id).csv())))
    assert [row["feature"] for row in rows] == ["30", "10"]
    assert [row["chosen"] for row in rows] == ["random", "top"]
    assert rows[1]["note"] == '\'=HYPERLINK("http://x")'
    assert rows[0]["reviewer"] == "'@Ada"
    assert rows[0]["note"] == 'says "no",\nlong'
    assert (rows[1]["seconds"], rows[1]["mcs"], rows[1]["verdict"]) == ("12.5", "0.1", "mixed")


def said(reviewer: str, verdicts: dict[int, str]) -> list[Review]:
    return [
        Review(i, 1, feature, reviewer, verdict, "", 0, "") for i, (feature, verdict) in enumerate(verdicts.items())
    ]


def test_kappa_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        first = {i: VERDICTS[random.integers(5)] for i in range(40)}
        second = {i: v if random.random() < 0.6 else VERDICTS[random.integers(5)] for i, v in first.items() if i > 4}
        found = agreement(said("Ada", first) + said("Bo", second), "Ada", "Bo")
        pairs = [(first[i], second[i]) for i in range(5, 40)]
        assert found.count == 35
        assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)), abs=1e-12)
        assert found.share == pytest.approx(np.mean([a == b for a, b in pairs]))
        assert found.differ == [i for i in range(5, 40) if first[i] != second[i]]
        assert found.kappa is not None
        assert found.kappa_interval is not None
        assert found.kappa_interval[0] < found.kappa < found.kappa_interval[1]
        assert np.sum(found.counts_KK) == 35


def test_the_error_of_kappa_is_its_spread_over_repetitions() -> None:
    random = np.random.default_rng(0)
    p_KK = random.dirichlet(np.ones(25)).reshape(5, 5) * 0.4 + np.diag([0.3, 0.1, 0.1, 0.05, 0.05])
    tables = random.multinomial(300, p_KK.ravel(), size=4000).reshape(-1, 5, 5)
    found = [cohens_kappa(table) for table in tables]
    spread = np.std([kappa for kappa, _ in found])  # type: ignore[arg-type]
    assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=0.05)
    truth, _ = cohens_kappa(p_KK * 1e9)
    assert truth is not None
    inside = [abs(kappa - truth) <= 1.96 * error for kappa, error in found if kappa is not None]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_agreement_where_it_is_not_defined() -> None:
    none = agreement(said("Ada", {1: "dead"}) + said("Bo", {2: "dead"}), "Ada", "Bo")
    assert (none.count, none.share, none.kappa, none.kappa_interval) == (0, None, None, None)
    alike = agreement(said("Ada", {1: "dead", 2: "dead"}) + said("Bo", {1: "dead", 2: "dead"}), "Ada", "Bo")
    assert (alike.share, alike.kappa) == (1.0, None)
    assert alike.share_interval == pytest.approx((0.3424, 1.0), abs=1e-4)  # Wilson's for 2 of 2
