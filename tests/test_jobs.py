"""Live analyses as jobs: joining, progress, partial results, cancel, full queues, errors, what is kept, turns."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch

from monosemy import runtime
from monosemy.app.job import Busy, Job, JobLimits, Outcome, Partial, Quick, Work, digest_of
from monosemy.app.jobs import Jobs
from monosemy.runtime import Progress, UsageError, full_rate_products


@contextmanager
def jobs_with(**limits: float) -> Iterator[Jobs]:
    jobs = Jobs(JobLimits(**limits))  # type: ignore[arg-type]
    try:
        yield jobs
    finally:
        jobs.close()


def until(reached: Callable[[], object], most_s: float = 5.0) -> None:
    end = time.monotonic() + most_s
    while not reached():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.005)


def quick(_partial: Partial) -> Outcome:
    return Outcome({"answer": 42}, "a,b\n")


class Slow:
    """Counts its runs and its steps; goes on until it is stopped, or let go."""

    def __init__(self) -> None:
        self.runs = self.steps = 0
        self.go = threading.Event()

    def __call__(self, partial: Partial) -> Outcome:
        self.runs += 1
        with Progress("slow", 1000) as bar:
            while not self.go.wait(0.01):
                self.steps += 1
                bar.advance()
                partial({"steps": self.steps})
        return Outcome({"steps": self.steps})


def last(job: Job) -> dict[str, object]:
    (event,) = job.since(0)
    found: dict[str, object] = json.loads(event.data)
    return found


def test_a_job_runs_and_its_answer_is_kept() -> None:
    with jobs_with() as jobs:
        job = jobs.submit("a", quick)
        until(lambda: job.ended)
        assert (job.state, job.csv, last(job)) == ("done", "a,b\n", {"answer": 42})
        assert jobs.get("a") is job
        with pytest.raises(UsageError, match="ask for the analysis again"):
            jobs.get("b")


def test_who_asks_for_the_same_joins_the_job_that_runs_and_the_one_that_is_done() -> None:
    slow = Slow()
    with jobs_with() as jobs:
        job = jobs.submit("a", slow)
        until(lambda: slow.steps)
        assert jobs.submit("a", slow) is job
        slow.go.set()
        until(lambda: job.ended)
        assert jobs.submit("a", slow) is job
    assert slow.runs == 1


def test_progress_and_partial_results_are_told_newest_only_and_in_order() -> None:
    slow = Slow()
    with jobs_with(report_s=0.0) as jobs:
        job = jobs.submit("a", slow)
        until(lambda: slow.steps > 5)
        first = job.since(0)
        assert {event.kind for event in first} == {"progress", "partial"}
        assert [event.number for event in first] == sorted(event.number for event in first)
        told = json.loads(job.events["progress"].data)
        assert told["label"] == "slow"
        assert told["total"] == 1000
        assert told["done"] >= 2
        assert told["left_s"] == pytest.approx((1000 - told["done"]) * 0.01, rel=0.8)
        newest = max(event.number for event in first)
        until(lambda: job.since(newest))
        assert all(event.number > newest for event in job.since(newest))
        slow.go.set()
        until(lambda: job.ended)
        assert [event.kind for event in job.since(0)] == ["done"]
        assert job.since(job.events["done"].number) == []


def test_progress_is_told_no_more_often_than_wished() -> None:
    def work(_partial: Partial) -> Outcome:
        with Progress("fast", 10_000) as bar:
            for _ in range(10_000):
                bar.advance()
        return Outcome({})

    with jobs_with(report_s=100.0) as jobs:
        job = jobs.submit("a", work)
        until(lambda: job.ended)
        assert job.events["done"].number == 4  # waiting, starting, the first step, the end


def test_cancel_takes_effect_within_a_second_and_the_worker_goes_on() -> None:
    slow = Slow()
    with jobs_with() as jobs:
        job = jobs.submit("a", slow)
        until(lambda: slow.steps)
        asked = time.monotonic()
        jobs.cancel("a")
        until(lambda: job.ended, 1.0)
        assert time.monotonic() - asked < 1
        assert (job.state, last(job)) == ("cancelled", {"text": "cancelled"})
        after = slow.steps
        following = jobs.submit("b", quick)
        until(lambda: following.ended)
        assert (following.state, slow.steps) == ("done", after)


def test_a_waiting_job_is_cancelled_at_once_and_never_runs() -> None:
    slow, waiting = Slow(), Slow()
    with jobs_with() as jobs:
        jobs.submit("a", slow)
        until(lambda: slow.steps)
        assert jobs.submit("b", waiting).state == "waiting"
        assert jobs.cancel("b").state == "cancelled"
        slow.go.set()
        until(lambda: jobs.get("a").ended)
        assert jobs.cancel("a").state == "done"  # too late to cancel: nothing changes
    assert waiting.runs == 0


def test_a_cancelled_or_failed_job_is_run_again_when_asked_for_again() -> None:
    slow = Slow()
    with jobs_with() as jobs:
        first = jobs.submit("a", slow)
        until(lambda: slow.steps)
        jobs.cancel("a")
        second = jobs.submit("a", slow)  # while the first is about to stop: it must not be joined
        assert second is not first
        newest = first.since(0)[-1].number
        until(lambda: first.ended and slow.runs == 2)
        assert jobs.get("a") is second
        assert second.since(newest)  # numbers go on, so who comes back with an old one misses nothing
        slow.go.set()
        until(lambda: second.state == "done")


def test_the_queue_is_bounded() -> None:
    slow = Slow()
    with jobs_with(waiting=2) as jobs:
        jobs.submit("a", slow)
        until(lambda: slow.steps)
        jobs.submit("b", quick)
        jobs.submit("c", quick)
        with pytest.raises(Busy, match="2 analyses wait already"):
            jobs.submit("d", quick)
        assert jobs.submit("b", quick).state == "waiting"  # joining is no new job
        jobs.cancel("b")
        assert jobs.submit("d", quick).state == "waiting"


def failing(error: Exception) -> Work:
    def work(_partial: Partial) -> Outcome:
        raise error

    return work


def test_errors_are_a_state_and_only_unexpected_ones_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with jobs_with() as jobs:
        asked = jobs.submit("a", failing(UsageError("`feature` (=-1) must be from 0 to 3")))
        until(lambda: asked.ended)
        assert (asked.state, last(asked)) == ("failed", {"text": "`feature` (=-1) must be from 0 to 3"})
        assert not caplog.records
        broken = jobs.submit("b", failing(ZeroDivisionError("by nothing")))
        until(lambda: broken.ended)
        assert broken.state == "failed"
        assert "ZeroDivisionError: by nothing" in str(last(broken)["text"])
        assert "Traceback" in caplog.text
        unsendable = jobs.submit("c", lambda _partial: Outcome({"x": float("nan")}))
        until(lambda: unsendable.ended)
        assert unsendable.state == "failed"
        assert jobs.submit("b", quick) is not broken


def test_the_deadline_ends_a_job() -> None:
    with jobs_with(deadline_s=0.05) as jobs:
        job = jobs.submit("a", Slow())
        until(lambda: job.ended)
        assert job.state == "failed"
        assert "took more than" in str(last(job)["text"])


def test_a_job_that_nobody_listens_to_is_given_up_and_one_with_a_listener_is_not() -> None:
    slow, behind = Slow(), Slow()
    with jobs_with(unheard_s=0.2) as jobs:
        job = jobs.submit("a", slow)
        with jobs.heard(job):
            jobs.submit("b", behind)
            time.sleep(0.4)
            assert job.state == "running"
        until(lambda: job.ended, 1.0)
        assert (job.state, last(job)) == ("cancelled", {"text": "nobody waited for it"})
        until(lambda: jobs._jobs["b"].ended, 1.0)
    assert behind.runs == 0


def test_a_full_queue_lets_go_of_what_nobody_waits_for() -> None:
    slow = Slow()
    with jobs_with(waiting=1, unheard_s=0.1) as jobs:
        job = jobs.submit("a", slow)
        with jobs.heard(job):
            until(lambda: slow.steps)
            left = jobs.submit("b", quick)
            time.sleep(0.15)
            taken = jobs.submit("c", quick)
            assert (left.state, taken.state) == ("cancelled", "waiting")


def test_finished_jobs_are_kept_up_to_a_number_and_a_size_the_longest_unused_go() -> None:
    with jobs_with(kept=3) as jobs:
        for key in "abc":
            jobs.submit(key, quick)
        until(lambda: all(jobs.get(key).ended for key in "abc"))
        jobs.get("a")
        fourth = jobs.submit("d", quick)
        until(lambda: fourth.ended)
        assert set(jobs._jobs) == {"a", "c", "d"}
    with jobs_with(kept_characters=250) as jobs:
        for key in "abc":
            big = jobs.submit(key, lambda _partial: Outcome({}, "x" * 100))
            until(lambda big=big: big.ended)  # type: ignore[misc]
        assert set(jobs._jobs) == {"b", "c"}


def test_closing_ends_what_runs_and_what_waits() -> None:
    slow = Slow()
    with jobs_with() as jobs:
        running, waiting = jobs.submit("a", slow), jobs.submit("b", quick)
        until(lambda: slow.steps)
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    assert len(jobs._threads) == 1
    assert not jobs._threads[False].is_alive()


def test_equal_requests_have_equal_ids_in_any_order_of_their_arguments() -> None:
    assert digest_of("a", {"x": 1, "y": 2}) == digest_of("a", {"y": 2, "x": 1})
    assert digest_of("a", {"x": 1}) != digest_of("a", {"x": 2})
    assert digest_of("a", {"x": 1}) != digest_of("b", {"x": 1})


class Pieces:
    """Long work in pieces, in none of which anything else may run, inside a setting of the whole process."""

    def __init__(self, piece_s: float = 0.02) -> None:
        self.inside = self.count = 0
        self.piece_s = piece_s
        self.go = threading.Event()
        self.precisions: set[str] = set()

    def __call__(self, _partial: Partial) -> Outcome:
        with full_rate_products(torch.device("cpu")), Progress("pieces", None) as bar:
            while not self.go.is_set():
                self.precisions.add(torch.get_float32_matmul_precision())
                self.inside += 1
                time.sleep(self.piece_s)
                self.inside -= 1
                self.count += 1
                bar.advance()
        return Outcome({"count": self.count})


class Between:
    """Quick work that looks at what runs beside it; opening it takes no turn."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces
        self.seen: list[tuple[int, int]] = []

    def __call__(self, partial: Partial) -> Outcome:
        with full_rate_products(torch.device("cpu")), Progress("between", 1) as bar:
            before = self.pieces.count
            time.sleep(3 * self.pieces.piece_s)
            bar.advance()
            partial({})
        self.seen.append((self.pieces.inside, self.pieces.count - before))
        return quick(partial)


def test_quick_jobs_go_between_the_pieces_of_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "medium_products_are_fp32", lambda _: True)
    before = torch.get_float32_matmul_precision()
    pieces = Pieces()
    between = Between(pieces)
    with jobs_with() as jobs:
        long = jobs.submit("long", pieces)
        until(lambda: pieces.count)
        counts: list[int] = []
        for number in range(5):
            asked = time.monotonic()
            job = jobs.submit(f"quick {number}", Quick(lambda: between))
            until(lambda job=job: job.ended, 1.0)  # type: ignore[misc]
            assert time.monotonic() - asked < 0.5
            assert last(job) == {"answer": 42}
            assert long.state == "running"
            until(lambda: pieces.count > (counts or [0])[-1])
            counts.append(pieces.count)
        assert between.seen == [(0, 0)] * 5  # the long one stood still between two pieces
        pieces.go.set()
        until(lambda: long.ended)
        assert last(long) == {"count": pieces.count}
    assert pieces.precisions == {"medium"}
    assert torch.get_float32_matmul_precision() == before != "medium"


def test_many_quick_jobs_do_not_keep_a_long_one_out() -> None:
    pieces, runs = Pieces(0.005), []

    def counted(_partial: Partial) -> Outcome:
        runs.append(pieces.count)
        return Outcome({})

    with jobs_with(waiting=40) as jobs:
        jobs.submit("long", pieces)
        until(lambda: pieces.count)
        made = [jobs.submit(str(number), Quick(lambda: counted)) for number in range(40)]
        until(lambda: all(job.ended for job in made))
        assert all(later > earlier for earlier, later in pairwise(runs))  # a piece between any two


def test_a_quick_job_that_fails_or_is_cancelled_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    slow, stuck = Slow(), threading.Event()

    def no_sign(_partial: Partial) -> Outcome:
        stuck.wait(5)
        return Outcome({})

    def unopened() -> Work:
        raise UsageError("it is gone")

    def dies(_partial: Partial) -> Outcome:
        raise ZeroDivisionError("by nothing")

    with jobs_with() as jobs:
        long = jobs.submit("long", slow)
        until(lambda: slow.steps)
        failed = [jobs.submit("a", Quick(lambda: dies)), jobs.submit("b", Quick(unopened))]
        failed.append(jobs.submit("c", Quick(lambda: lambda _partial: Outcome({"x": float("nan")}))))
        until(lambda: all(job.state == "failed" for job in failed))
        endless = jobs.submit("d", Quick(lambda: Slow()))
        until(lambda: endless.state == "running")
        jobs.cancel("d")
        until(lambda: endless.state == "cancelled", 1.0)
        steps = slow.steps
        until(lambda: slow.steps > steps + 5)
        slow.go.set()
        until(lambda: long.state == "done")

        held = jobs.submit("e", no_sign)  # it gives no way, so a quick one waits for its turn
        until(lambda: held.state == "running")
        waits = jobs.submit("f", Quick(lambda: quick))
        until(lambda: waits.state == "running")
        jobs.cancel("f")
        until(lambda: waits.state == "cancelled", 1.0)
        assert held.state == "running"
        stuck.set()
        until(lambda: held.state == "done")
    assert "ZeroDivisionError" in caplog.text


def test_a_full_queue_of_long_jobs_leaves_room_for_quick_ones() -> None:
    slow = Slow()
    with jobs_with(waiting=1) as jobs:
        jobs.submit("a", slow)
        until(lambda: slow.steps)
        jobs.submit("b", slow)
        with pytest.raises(Busy):
            jobs.submit("c", slow)
        job = jobs.submit("d", Quick(lambda: quick))
        until(lambda: job.state == "done", 1.0)
