"""The pages of the review mode, and what they ask of the server.

    GET  /review, /review.json                          the sessions of this run; starting one
    GET  /review/{session}, /review/{session}.json      going through one; `?reviewer=` adds what that one has said
    GET  /api/reviews/{session}/features/{feature}      what a reviewer sees of a feature
    GET  /api/reviews/{session}/agreement?a=…&b=…       how far two reviewers agree
    GET  /api/reviews/{session}/table.csv?reviewer=…    the verdicts that stand
    POST /api/reviews/sessions | /api/reviews | /api/reviews/undo

Where a session is blind, a feature comes without its scores: its activations are told as shares of its maximum, and
density, maximum and MCS not at all. The table of such a session holds the asker's own verdicts alone, and neither MCS
nor why a feature was chosen, until that one has been through the whole queue. The agreement of two is told at any time:
it is of features on which both have a verdict. There are no passwords: a reviewer is who says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monosemy.analysis.feature import FeatureIndex
from monosemy.app.feature_page import feature_data
from monosemy.app.live import body_of
from monosemy.app.pages import as_json, rendered
from monosemy.app.parameters import LARGEST, Choice, Parameter, Real, Text, Whole, Word, checked_values
from monosemy.app.review_agreement import agreement
from monosemy.app.review_queue import MOST, RULES, QueueSettings, queue_of
from monosemy.app.reviews import FILE, LONGEST_NAME, LONGEST_NOTE, LONGEST_S, VERDICTS, Reviews, Session
from monosemy.app.state import NotFound, State
from monosemy.runtime import UsageError

SESSION = Whole("the session's number", 1, LARGEST)
REVIEWER = Text("the reviewer's name", longest=LONGEST_NAME)
NEW: Mapping[str, Parameter] = {
    "name": Text("what the session is called", longest=LONGEST_NAME),
    "index": Text("the name of a feature index in this run", longest=200),
    "rule": Choice("which features", RULES, QueueSettings.rule),
    "count": Whole("how many", 1, MOST, QueueSettings.count),
    "seed": Whole("seed of the choice and the order", 0, LARGEST, QueueSettings.seed),
    "blind": Choice("whether scores are hidden", ("yes", "no"), "yes"),
}
VERDICT: Mapping[str, Parameter] = {
    "session": SESSION,
    "feature": Whole("the feature's number", 0, LARGEST),
    "reviewer": REVIEWER,
    "verdict": Choice("what it looks like", VERDICTS),
    "seconds": Real("time spent on it", 0.0, LONGEST_S, 0.0),
    "note": Word("what was seen", longest=LONGEST_NOTE),
}
SEEN_BLIND = ("feature", "index", "has_logits", "top_logits", "bottom_logits")


def routes(state: State) -> list[Route]:
    """The routes above."""
    pages = ReviewPages(state)
    gets: dict[str, Callable[[Request], Response]] = {
        "/review": pages.sessions_page,
        "/review.json": pages.sessions,
        "/review/{session:int}": pages.session_page,
        "/review/{session:int}.json": pages.session,
        "/api/reviews/{session:int}/features/{feature:int}": pages.feature,
        "/api/reviews/{session:int}/agreement": pages.agreement,
        "/api/reviews/{session:int}/table.csv": pages.table,
    }
    posts: dict[str, Callable[[Any], dict[str, Any]]] = {
        "/api/reviews/sessions": pages.create,
        "/api/reviews/undo": pages.undo,
        "/api/reviews": pages.record,
    }
    found = [
        Route(path, answer, methods=["POST"]) for path, answer in zip(posts, map(_posted, posts.values()), strict=True)
    ]
    return found + [Route(path, answer, methods=["GET"]) for path, answer in gets.items()]


def _posted(take: Callable[[Any], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        given = await body_of(request)
        return _json(await to_thread.run_sync(take, given))  # a thread, for it waits for the disk

    return answer


class ReviewPages:
    """The answers to these routes."""

    def __init__(self, state: State) -> None:
        self.state, self.reviews = state, Reviews(state.path / FILE)

    def sessions_page(self, request: Request) -> Response:
        """The sessions, and the form that starts one."""
        return _page(rendered("review.html", self.state, self._sessions(), "/review", "/review.json"))

    def sessions(self, request: Request) -> Response:
        """Their twin."""
        return _json(self._sessions())

    def session_page(self, request: Request) -> Response:
        """Going through a session."""
        number = request.path_params["session"]
        return _page(rendered("review.html", self.state, self._session(number), "/review", f"/review/{number}.json"))

    def session(self, request: Request) -> Response:
        """Its twin, with what `?reviewer=` has said."""
        return _json(self._session(request.path_params["session"], _reviewer(request)))

    def feature(self, request: Request) -> Response:
        """A feature of a session, as its reviewers see it."""
        session = self._found(request.path_params["session"])
        feature = request.path_params["feature"]
        if feature not in self.reviews.queue(session.id):
            raise NotFound(f"`feature` (={feature}) is not in the queue of session {session.id}")
        name, _ = self._index(session)
        data = feature_data(self.state, {"index": name}, feature)
        return _json(blinded(data) if session.blind else data)

    def agreement(self, request: Request) -> Response:
        """How far reviewers `a` and `b` agree."""
        session = self._found(request.path_params["session"])
        names = [request.query_params.get(which, "").strip() for which in "ab"]
        standing = self.reviews.standing(session.id)
        for name in names:
            if name not in {review.reviewer for review in standing}:
                raise NotFound(f"`reviewer` (={name[:40]!r}) has no verdicts in session {session.id}")
        return _json({"verdicts": VERDICTS, **asdict(agreement(standing, *names))})

    def table(self, request: Request) -> Response:
        """S1's spreadsheet, or what of it `?reviewer=` may know."""
        session = self._found(request.path_params["session"])
        reviewer = _reviewer(request)
        only = reviewer if session.blind and not self.reviews.finished(session.id, reviewer) else None
        headers = {"content-disposition": f'attachment; filename="reviews-{session.id}.csv"'}
        return Response(
            self.reviews.table(session.id, only).csv(), media_type="text/csv; charset=utf-8", headers=headers
        )

    def create(self, given: Any) -> dict[str, Any]:
        """Start a session."""
        values = checked_values(NEW, given)
        _, index = self.state.index(values["index"])
        settings = QueueSettings(values["rule"], values["count"], values["seed"], values["blind"] == "yes")
        queue = queue_of({row["id"]: row["mcs_other_seed"] for row in index.table()}, settings)
        made = index.artifact.parent("dictionaries").id
        session = self.reviews.create(values["name"], made, index.artifact.config["member"], settings, queue)
        return {"session": asdict(session), "href": f"/review/{session.id}"}

    def record(self, given: Any) -> dict[str, Any]:
        """Keep a verdict; it is on the disk when this is answered. The note may be empty or absent."""
        return {"review": asdict(self.reviews.record(**checked_values(VERDICT, given)))}

    def undo(self, given: Any) -> dict[str, Any]:
        """Take back the reviewer's newest verdict."""
        undone = self.reviews.undo(**checked_values({"session": SESSION, "reviewer": REVIEWER}, given))
        return {"undone": None if undone is None else asdict(undone)}

    def _sessions(self) -> dict[str, Any]:
        found = []
        for session in self.reviews.sessions():
            counts = Counter(review.reviewer for review in self.reviews.standing(session.id))
            found.append({**asdict(session), "reviewers": dict(counts)})
        return {"sessions": found, "indexes": list(self.state.indexes), "rules": RULES, "session": None}

    def _session(self, number: int, reviewer: str = "") -> dict[str, Any]:
        session, standing = self._found(number), self.reviews.standing(number)
        return {
            "session": asdict(session),
            "queue": self.reviews.queue(number),
            "verdicts": VERDICTS,
            "reviewers": dict(Counter(review.reviewer for review in standing)),
            "said": [asdict(review) for review in standing if review.reviewer == reviewer],
        }

    def _found(self, number: int) -> Session:
        try:
            return self.reviews.session(number)
        except UsageError as error:
            raise NotFound(str(error)) from error

    def _index(self, session: Session) -> tuple[str, FeatureIndex]:
        for name, index in self.state.indexes.items():
            made = index.artifact
            if made.parent("dictionaries").id == session.dictionaries and made.config["member"] == session.member:
                return name, index
        raise NotFound(
            f"session {session.id} is of features whose index is no longer in {self.state.name}; copy it back"
        )


def blinded(data: Mapping[str, Any]) -> dict[str, Any]:
    """A feature's data without its scores; activations are shares of its maximum."""
    most = data["max"] or 1.0
    groups = [
        {
            **{key: value for key, value in group.items() if key not in ("low", "high")},
            "examples": [
                {**example, "values": [round(value / most, 4) for value in example["values"]]}
                for example in group["examples"]
            ],
        }
        for group in data["groups"]
    ]
    return {**{key: data[key] for key in SEEN_BLIND}, "groups": groups, "max": 1.0}


def _reviewer(request: Request) -> str:
    return request.query_params.get("reviewer", "").strip()


def _json(data: Any) -> Response:
    return Response(as_json(data), media_type="application/json", headers={"cache-control": "no-store"})


def _page(body: bytes) -> Response:
    return Response(body, media_type="text/html", headers={"cache-control": "no-store"})
