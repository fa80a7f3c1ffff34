"""Live analyses over HTTP: asking, following, coming back, cancelling; each of them on a real model, and as Python."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, cast

import httpx
import pytest
import torch
import uvicorn
from conftest import shared
from feature_worlds import SITE, TableModel, grid, token_store, whole_number_dictionary
from starlette.applications import Starlette
from starlette.testclient import TestClient

from monosemy.analysis.chart import Bars, Chart
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import Moments, feature_moments
from monosemy.analysis.result import Result, Table
from monosemy.app import live, pages
from monosemy.app.across import ACROSS
from monosemy.app.analyses import ANALYSES
from monosemy.app.job import JobLimits
from monosemy.app.jobs import Jobs
from monosemy.app.member_analyses import OF_MEMBER
from monosemy.app.offered import Analysis
from monosemy.app.parameters import (
    LONGEST_LABEL,
    LONGEST_LABELLED,
    LONGEST_TEXT,
    MOST_LINES,
    MOST_TOKENS,
    Choice,
    Labelled,
    Parameter,
    Real,
    Text,
    Whole,
    Word,
    checked_values,
)
from monosemy.app.recent import Recent
from monosemy.app.state import Grid, NotFound, State
from monosemy.data.tokens import tokenize
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.models import continuation
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import Progress, UsageError

WIDTH = 12


@dataclass(frozen=True)
class Counted(Result):
    """What the slow analysis gives."""

    name: ClassVar[str] = "counted"
    feature: int
    steps: int
    tokens: list[str]

    def table(self) -> Table:
        return Table(["step", "token"], [[step, "=1+1"] for step in range(self.steps)])

    def charts(self) -> list[Chart]:
        return [Chart("steps", "Steps", "token", "steps", [Bars(self.tokens, [1.0, float("nan")])])]


class Fake:
    """An analysis that counts its runs and goes on until it is let go; it stands for the real ones."""

    __name__ = "fake"

    def __init__(self) -> None:
        self.runs = self.steps = 0
        self.go = threading.Event()

    def __call__(self, lab: Lab, feature: int, prompt: str, *, each: Any, fail: int = 0) -> Counted:
        self.runs += 1
        if fail:
            raise ZeroDivisionError("by nothing")
        tokens = lab.texts.sequence(lab.ids(prompt))[:2]
        with Progress("slow", 1000) as bar:
            while not self.go.wait(0.01):
                self.steps += 1
                bar.advance()
                each(Counted(feature, self.steps, tokens))
        return Counted(feature, 150, tokens)


class SmallModel(TableModel):
    """The table with what a lab asks of a model besides."""

    max_context: int | None = None
    vocab_size = 258


class FakeState:
    """A run with one lab."""

    def __init__(self, folder: Path) -> None:
        store = token_store(folder, [60, 9], context=8)
        made = DictionaryStore.open(grid(folder / "dictionaries", [whole_number_dictionary(WIDTH)]))
        self.here = Grid("dictionaries", made.artifact, [{"member": 0}], None, "")
        self.results: Recent[Result] = Recent(1)
        self.indexes: dict[str, FeatureIndex] = {}
        self.made = Lab(cast(LanguageModel, SmallModel()), made.dictionary(0, torch.device("cpu")), SITE, store)

    def grid(self, name: str | None = None) -> Grid:
        if name != "dictionaries":
            raise NotFound(f"`grid` (={name!r}) must be one of dictionaries")
        return self.here

    def lab(self, dictionaries: str, member: int) -> Lab:
        return self.made

    def moments(self, dictionaries: str, member: int, max_tokens: int) -> Moments:
        return feature_moments(self.made, max_tokens=max_tokens)

    def indexed(self, grid: Grid) -> dict[int, str]:
        return {}

    def activations(self, grid: Grid) -> Path:
        raise NotFound("there are none")


ASKED = {"dictionaries": "dictionaries", "member": 0, "feature": 3, "prompt": "ab"}


@dataclass
class World:
    client: TestClient
    fake: Fake
    jobs: Jobs
    app: Starlette

    def ask(self, **changes: Any) -> httpx.Response:
        return cast(httpx.Response, self.client.post("/api/live/fake", json={**ASKED, **changes}))

    def end(self, job: str) -> dict[str, Any]:
        end = time.monotonic() + 20
        while (found := self.client.get(f"/api/jobs/{job}").json())["state"] not in ("done", "failed", "cancelled"):
            assert time.monotonic() < end
            time.sleep(0.01)
        return cast(dict[str, Any], found)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    fake, jobs, state = Fake(), Jobs(JobLimits(waiting=1, report_s=0.0)), FakeState(tmp_path)
    fail = Whole("whether it fails", 0, 1, 0)
    analyses = {"fake": Analysis("Fake", "counts", fake, {"prompt": Text("a text"), "fail": fail}, streams=True)}
    app = Starlette(routes=live.routes(state, jobs, analyses), exception_handlers=pages.errors(cast(State, state)))
    fake.__module__ = "nowhere"
    yield World(TestClient(app), fake, jobs, app)
    jobs.close()


def test_an_analysis_is_asked_for_followed_and_taken_away(world: World) -> None:
    answer = world.ask()
    assert answer.status_code == 202
    job = answer.json()["job"]
    assert world.ask().json()["job"] == job  # joined
    assert world.ask(feature=4).json()["job"] != job
    assert world.client.get(f"/api/jobs/{job}/table.csv").status_code == 404
    world.fake.go.set()
    found = world.end(job)
    assert found["state"] == "done"
    done = found["done"]
    assert done["facts"] == {"feature": 3, "steps": 150}
    assert done["charts"][0]["marks"][0]["values"] == [1.0, None]
    assert done["table"]["total"] == 150
    assert len(done["table"]["rows"]) == 100
    assert "from nowhere import fake" in done["python"]
    file = world.client.get(f"/api/jobs/{job}/table.csv")
    assert file.headers["content-disposition"].startswith("attachment")
    assert file.text.splitlines()[:2] == ["step,token", "0,'=1+1"]
    assert len(file.text.splitlines()) == 151


def test_partial_results_are_shown_without_their_table(world: World) -> None:
    job = world.ask().json()["job"]
    end = time.monotonic() + 5
    while "partial" not in (found := world.client.get(f"/api/jobs/{job}").json()):
        assert time.monotonic() < end
    assert found["state"] == "running"
    assert found["partial"]["facts"]["steps"] >= 1
    assert found["partial"]["table"] is None
    assert {"label", "done", "total", "left_s"} == found["progress"].keys()


def test_cancelling_over_http_takes_effect_within_a_second(world: World) -> None:
    job = world.ask().json()["job"]
    while not world.fake.steps:
        time.sleep(0.005)
    began = time.monotonic()
    assert world.client.delete(f"/api/jobs/{job}").status_code == 200
    assert world.end(job)["state"] == "cancelled"
    assert time.monotonic() - began < 1
    assert world.ask().json()["state"] == "waiting"  # asked for again, it starts again


def test_a_full_queue_is_503_and_says_when_to_come_back(world: World) -> None:
    world.ask()
    while not world.fake.steps:
        time.sleep(0.005)
    assert world.ask(feature=4).status_code == 202
    answer = world.ask(feature=5)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "wait already" in answer.json()["error"]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"feature": -1}, 400, "`feature` (=-1) must be a whole number"),
        ({"feature": True}, 400, "whole number"),
        ({"feature": "3"}, 400, "whole number"),
        ({"prompt": ""}, 400, "not empty"),
        ({"prompt": "x" * (LONGEST_TEXT + 1)}, 400, "characters"),
        ({"prompt": ["a"]}, 400, "must be a text"),
        ({"prompt": "\ud800"}, 400, "surrogate"),
        ({"where": "up"}, 400, "unknown `where`"),
        ({"dictionaries": "../../etc"}, 404, "must be one of dictionaries"),
        ({"member": 7}, 404, "`member` (=7)"),
    ],
)
def test_wrong_requests_are_refused_before_anything_runs(
    world: World, changes: dict[str, Any], status: int, said: str
) -> None:
    body = json.dumps({**ASKED, **changes}).encode()
    answer = world.client.post("/api/live/fake", content=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
    assert world.fake.runs == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(world: World, body: bytes) -> None:
    answer = world.client.post("/api/live/fake", content=body)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]


def test_errors_inside_a_job_are_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    unknown = world.end(world.ask(feature=WIDTH).json()["job"])
    assert (unknown["state"], unknown["failed"]["text"]) == ("failed", "`feature` (=12) must be from 0 to 11")
    long = world.end(world.ask(prompt="a" * (MOST_TOKENS + 1)).json()["job"])
    assert f"{MOST_TOKENS + 1} tokens" in long["failed"]["text"]
    assert world.fake.runs == 0
    broken = world.end(world.ask(fail=1).json()["job"])
    assert "ZeroDivisionError: by nothing" in broken["failed"]["text"]
    assert "Traceback" in caplog.text


def test_unknown_jobs_and_analyses_are_404(world: World) -> None:
    for path in ("/api/jobs/x", "/api/jobs/x/events", "/api/jobs/x/table.csv"):
        assert world.client.get(path).status_code == 404
    assert world.client.delete("/api/jobs/x").status_code == 404
    assert world.client.post("/api/live/other", json=ASKED).status_code == 404


def test_the_offer_names_every_analysis_with_bounds(world: World) -> None:
    offer = world.client.get("/api/live").json()
    assert offer["fake"]["parameters"]["fail"] == {
        "help": "whether it fails", "low": 0, "high": 1, "default": 0, "kind": "whole",
    }  # fmt: skip


def test_parameters_are_checked() -> None:
    numbers: dict[str, Parameter] = {"n": Whole("n", 1, 5, 2), "x": Real("x", -1, 1, 0.5), "w": Word("w", longest=4)}
    parameters: dict[str, Parameter] = {**numbers, "c": Choice("c", ("a", "b"), "a"), "t": Text("t")}
    assert checked_values(parameters, {"t": "u"}) == {"n": 2, "x": 0.5, "w": "", "c": "a", "t": "u"}
    assert checked_values(parameters, {"t": "u", "w": " cat"})["w"] == " cat"
    assert checked_values(parameters, {"t": "u", "x": 1, "c": "b"})["x"] == 1.0
    with pytest.raises(UsageError, match="`t` is missing"):
        checked_values(parameters, {})
    texts = {"c": ("z", ["a"]), "t": (3, None), "w": ("cats!", 3, "\udfff")}
    wrong = {"n": (6, 0, 1.0, True), "x": (float("nan"), "1", 2, True), **texts}
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(UsageError, match=f"`{name}`"):
            checked_values(parameters, {"t": "u", name: value})


@contextmanager
def served(app: Starlette) -> Iterator[str]:
    """A real server on a free port, for streams that a test client would wait out."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def events(stream: httpx.Response, count: int | None = None) -> list[tuple[int, str, dict[str, Any]]]:
    """The first `count` events of a stream, or all until it ends."""
    found = []
    fields: dict[str, str] = {}
    for line in stream.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
            if len(found) == count:
                break
    return found


def test_who_comes_back_goes_on_from_the_last_event_and_two_may_listen(world: World) -> None:
    with served(world.app) as address, httpx.Client(base_url=address, timeout=10) as client:
        path = f"/api/jobs/{client.post('/api/live/fake', json=ASKED).json()['job']}/events"
        with client.stream("GET", path) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert stream.headers["cache-control"] == "no-store"
            first = events(stream, 6)
        numbers = [number for number, _, _ in first]
        assert numbers == sorted(set(numbers))
        assert {kind for _, kind, _ in first} == {"progress", "partial"}
        seen = {"last-event-id": str(numbers[-1])}
        with client.stream("GET", path) as other, client.stream("GET", path, headers=seen) as again:
            world.fake.go.set()
            rest, all_of_it = events(again), events(other)
        assert rest[0][0] > numbers[-1]
        assert rest[-1][1] == all_of_it[-1][1] == "done"
        assert rest[-1][2]["facts"]["steps"] == 150
        assert [kind for _, kind, _ in rest].count("done") == 1
        over = client.get(path, headers={"last-event-id": str(rest[-1][0])})
        assert over.status_code == 204  # which ends a browser's asking
        assert [kind for _, kind, _ in events_of(client.get(path))] == ["done"]  # a reload after the end
        assert [kind for _, kind, _ in events_of(client.get(path, headers={"last-event-id": "x"}))] == ["done"]


def events_of(answer: httpx.Response) -> list[tuple[int, str, dict[str, Any]]]:
    return events(httpx.Response(200, content=answer.content))


def test_a_listener_that_leaves_is_noticed(world: World) -> None:
    with served(world.app) as address, httpx.Client(base_url=address, timeout=10) as client:
        job = client.post("/api/live/fake", json=ASKED).json()["job"]
        with client.stream("GET", f"/api/jobs/{job}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("retry:")
            assert world.jobs.get(job).listeners == 1
        end = time.monotonic() + 5
        while world.jobs.get(job).listeners:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_who_cancels_what_others_listen_to_only_leaves(world: World) -> None:
    with served(world.app) as address, httpx.Client(base_url=address, timeout=10) as client:
        job = client.post("/api/live/fake", json=ASKED).json()["job"]
        path = f"/api/jobs/{job}"
        with client.stream("GET", f"{path}/events") as other:
            lines = other.iter_lines()
            assert next(lines).startswith("retry:")
            with client.stream("GET", f"{path}/events") as mine:
                my_lines = mine.iter_lines()
                assert next(my_lines).startswith("retry:")
                assert world.jobs.get(job).listeners == 2
                answer = client.delete(path)
                assert (answer.status_code, answer.json()["left"]) == (200, True)
            steps = world.fake.steps
            while world.fake.steps < steps + 3:  # it goes on
                assert next(lines) is not None
            assert world.jobs.get(job).state == "running"
            end = time.monotonic() + 5
            while world.jobs.get(job).listeners > 1:
                assert time.monotonic() < end
                time.sleep(0.01)
            assert client.delete(path).json()["left"] is False
        assert world.end(job)["state"] == "cancelled"


# The real analyses, on a real model.


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    model = shared("models/stories260K")
    folder = tmp_path_factory.mktemp("live")
    told = [f"Once upon a time, {name} had a dog. The dog was big and red." for name in ("Lily", "Tom", "Mia") * 40]
    (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in told))
    run = folder / "run"
    store = tokenize(str(folder / "text.jsonl"), out=run / "tokens", tokenizer=str(model), context=32)
    network = LanguageModel.load(model, "cpu")
    site = "layers.2.mlp_act"
    generator = torch.Generator().manual_seed(0)
    width = network.width_of(site)
    W_ND = torch.nn.functional.normalize(torch.randn(32, width, generator=generator), dim=1)
    dictionary = ReluDictionary({"W_enc": W_ND, "b_enc": torch.zeros(32), "W_dec": W_ND.clone()})
    made = grid(run / "dictionaries", [dictionary], site)
    features(made, member=0, model=network, tokens=store, out=run / "features", top=4)
    state, jobs = State(run), Jobs()
    routes = live.routes(state, jobs, {**ANALYSES, **ACROSS})
    yield TestClient(Starlette(routes=routes, exception_handlers=pages.errors(state)))
    jobs.close()


REAL = {"dictionaries": "dictionaries", "member": 0, "feature": 5}
QUICK: dict[str, dict[str, Any]] = {
    "replace": {"position": 2},
    "append": {"plausible": 0.001},
    "prepend": {"plausible": 0.001},
    "alone": {"plausible": 0.001},
    "steer": {"new_tokens": 5, "how": "clamp", "strength": 2},
    "ablation-examples": {"examples": 2},
    "neurons": {"max_tokens": 10_000},
    "curves": {"max_tokens": 10_000, "directions": 3},
    "probe": {"max_tokens": 10_000, "choose": "difference"},
    "attribution": {"n_features": 4},
    "steering-agreement": {"texts": 2, "new_tokens": 4},
    "agreement": {"examples": 4, "at_least": 2, "controls": 9},
    "leading-curves": {"max_tokens": 10_000},
    "labels": {"pooling": "mean"},
}
PARTS = ("dog", "cat"), ("big", "red"), ("ran", "sat"), ("Lily", "Tom"), ("sun", "sea")
SAID = [" ".join(some) for some in product(*PARTS)]
LINES = "\n".join(f"{'<b>cat</b>' if 'cat' in text else 'dog'}\tThe {text}" for text in SAID)
HOSTILE = 'Once """ + \'x\' \\ {0}\n</script> é'


@pytest.mark.parametrize("name", [*ANALYSES, *OF_MEMBER])
def test_each_analysis_runs_and_its_python_gives_the_same(real: TestClient, name: str, tmp_path: Path) -> None:
    analysis = {**ANALYSES, **OF_MEMBER}[name]
    request = {**{key: REAL[key] for key in analysis.common}, **QUICK.get(name, {})}
    if "prompt" in analysis.parameters:
        request["prompt"] = HOSTILE
    if "lines" in analysis.parameters:
        request["lines"] = LINES
    found = ended(real, name, request)
    assert found["state"] == "done", found
    done, job = found["done"], found["job"]
    assert done["charts"]
    assert done["table"]["rows"]
    assert bool(done["words"]) == (name != "activations")
    assert done.get("index", "features") == "features"
    strips = done["strips"]
    assert all(len(strip["tokens"]) == len(strip["values"]) for strip in strips)
    assert bool(strips) == (name in ("activations", "steer", "ablation", "ablation-examples"))
    csv = real.get(f"/api/jobs/{job}/table.csv").text
    if name == "context":  # one in a process of its own: nothing that is open here helps it
        command = [sys.executable, "-c", done["python"]]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        printed = ran.stdout
        assert list(tmp_path.iterdir()) == []
    else:
        printed = in_this_process(done["python"])
    assert printed.splitlines()[:-1] == csv.splitlines()  # and the line end that print adds


def test_an_implausible_token_is_left_out_of_every_scan(real: TestClient) -> None:
    """Where BOS stands before them, the first tokens too have a probability."""
    for name in ("prepend", "append", "alone"):
        request = {**REAL, "plausible": 0.01, **({} if name == "alone" else {"prompt": "Once upon"})}
        facts = ended(real, name, request)["done"]["facts"]
        assert facts["plausible"] == 0.01
        assert 0 < facts["n_tokens"] < facts["n_implausible"]
    nothing = ended(real, "alone", REAL)["done"]["facts"]  # 0: all
    assert (nothing["n_tokens"], nothing["n_implausible"]) == (512, 0)


def ended(client: TestClient, name: str, request: dict[str, Any]) -> dict[str, Any]:
    """What becomes of an analysis."""
    job = client.post(f"/api/live/{name}", json=request).json()["job"]
    end = time.monotonic() + 60
    while (found := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return cast(dict[str, Any], found)


def test_what_one_types_is_answered_while_a_scan_runs(real: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """And both give what they give alone."""
    typed = [{**REAL, "prompt": "The big red dog" + " ran" * number} for number in range(6)]
    scanned = {**REAL, "prompt": "Once upon a time, Lily had a dog. " * 2}
    asked = {"activations": typed[:4], "context": typed[4:5], "logits": [REAL]}
    monkeypatch.setitem(continuation.TOKENS_AT_ONCE, "cpu", 1)  # a pass a token: the scan takes seconds
    scan = real.post("/api/live/append", json=scanned).json()["job"]
    waited = real.post("/api/live/replace", json={**scanned, "position": 1}).json()["job"]
    while "partial" not in real.get(f"/api/jobs/{scan}").json():
        time.sleep(0.01)
    found = {}
    for name, requests in asked.items():
        for request in requests:
            began = time.monotonic()
            found[name, json.dumps(request)] = ended(real, name, request)
            assert time.monotonic() - began < 1
    assert real.get(f"/api/jobs/{scan}").json()["state"] == "running"
    assert real.delete(f"/api/jobs/{waited}").json()["state"] == "cancelled"
    while (scan_done := real.get(f"/api/jobs/{scan}").json())["state"] == "running":
        time.sleep(0.01)
    assert torch.get_float32_matmul_precision() == "highest"
    assert {each["state"] for each in found.values()} == {"done"}
    for job, done in [(scan, scan_done), *((each["job"], each) for each in found.values())]:
        csv = real.get(f"/api/jobs/{job}/table.csv").text
        assert in_this_process(done["done"]["python"]).splitlines()[:-1] == csv.splitlines()


def in_this_process(source: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(source, "<copied>", "exec"), {})
    return out.getvalue()


def test_no_parameter_is_called_like_what_every_request_has() -> None:
    for analysis in {**ANALYSES, **ACROSS}.values():
        assert not analysis.common.keys() & analysis.parameters.keys()


def test_only_labelled_lines_of_the_right_form_are_taken() -> None:
    lines = Labelled("lines")
    text = "good\tThe cat.\r\n\n bad \t a tab \t inside\n"
    assert lines.checked("lines", text) == text
    assert lines.read(text) == ["The cat.", " a tab \t inside"]
    assert lines.read('{"label": 1, "text": "The cat."}\n') == ["The cat."]
    assert lines.read(lines.checked("lines", " \n")) == []
    for wrong, said in (
        ("good\tThe cat.\nbad The dog.", "line 2: has no tab"),
        ("\tThe cat.", "line 1"),
        ("good\t ", "line 1"),
        (f"{'x' * (LONGEST_LABEL + 1)}\tThe cat.", f"label of {LONGEST_LABEL + 1} characters"),
        ("", "not empty"),
        ("a\tb\n" * (MOST_LINES + 1), f"{MOST_LINES + 1} lines"),
        ("a\t" + "b" * LONGEST_LABELLED, "characters"),
        ("a\t\ud800", "surrogate"),
        ('{"label": 1, "text": "\\ud800"}', "surrogate"),
        (["a\tb"], "must be a text"),
    ):
        with pytest.raises(UsageError, match=said):
            lines.checked("lines", wrong)


def test_a_label_is_told_from_all_others_where_it_is_named(real: TestClient) -> None:
    member = {key: REAL[key] for key in ("dictionaries", "member")}
    three = LINES + "\nbird\tThe bird sang"
    assert "3 values" in ended(real, "labels", {**member, "lines": three})["failed"]["text"]
    fish = ended(real, "labels", {**member, "lines": three, "positive": "fish"})
    assert "`positive` (=fish)" in fish["failed"]["text"]
    found = ended(real, "labels", {**member, "lines": three, "positive": "dog"})
    assert "tells “dog” from “not dog”" in found["done"]["words"][0]
    long = f"{LINES}\ndog\t" + "dog " * (MOST_TOKENS // 2 + 1)
    assert f"may have {MOST_TOKENS}" in ended(real, "labels", {**member, "lines": long})["failed"]["text"]


def test_a_target_is_one_token_and_this_features_part_is_said(real: TestClient) -> None:
    request = {**REAL, "prompt": "Once upon a time", "n_features": 200}
    done = ended(real, "attribution", request)["done"]
    told = {feature: logit for feature, _, logit in done["table"]["rows"]}
    ranked = sorted(told, key=lambda feature: -abs(told[feature]))
    for feature in range(32):
        words = ended(real, "attribution", {**request, "feature": feature})["done"]["words"]
        if feature in told:
            added, place = f"{told[feature]:.3g}".replace("-", "−"), ranked.index(feature) + 1
            assert words[2] == f"This feature adds {added}; by size it is number {place} of them."
        else:
            assert words[2] == "This feature does not fire there, so it adds nothing."
    few = ended(real, "attribution", {**request, "feature": ranked[-1], "n_features": 1})["done"]["words"]
    assert few[2] == "This feature is not among the 1 that matter most."
    assert ended(real, "attribution", {**request, "target": "."})["done"]["facts"]["target_text"] == "."
    failed = ended(real, "attribution", {**request, "target": "many words here"})["failed"]["text"]
    assert failed.startswith("`target` (='many words here') is ")


def test_controls_have_the_directions_that_are_asked_for(real: TestClient) -> None:
    request = {**REAL, "max_tokens": 10_000}
    done = ended(real, "curves", {**request, "directions": 7})["done"]
    counts = {row[0]: row[-1] for row in done["table"]["rows"]}
    assert counts["features"] == 1
    assert max(counts["identity"], counts["pca"], counts["random"]) <= 7
    assert counts["random"] > 1
