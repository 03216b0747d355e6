"""The application of `vop serve`: searches in indexes, filmstrips and videos of theirs, and a page to do it with.

It is plain ASGI: how it is run says `run.py`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from pipelines.serve.answers import About, Asked, Found, Health, IndexInfo, Moment, Refused, Seconds, VideoInfo
from pipelines.serve.guard import HEALTH, Guard, policy
from pipelines.serve.limits import BusyError, Line, Rate
from pipelines.serve.page import make_page
from pipelines.serve.shelf import AwayError, Shelf, Video
from pipelines.serve.strips import strip
from vop import __version__
from vop.errors import VopError
from vop.index.search import Hit, Index
from vop.messages import visible

logger = logging.getLogger(__name__)
RUNNING = max(2, (os.cpu_count() or 2) // 2)  # searches at once, and as many filmstrips
WAITING = 64  # in line for each of the two
WORDS = {
    404: "there is no such index or video",
    409: "the video has changed since it was indexed",
    410: "the video has gone since it was indexed",
    422: "the request is not valid",
    429: "too many queries of one client",
    501: "the video is not on the server's machine",
    503: "the server is overloaded",
}


def _refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Refused, "description": WORDS[code]} for code in codes}


def make_app(indexes: Mapping[str, Index], *, token: str = "", rate: float = 0, waiting: int = WAITING) -> Guard:
    """The application, behind its guard.

    indexes: by the names that requests know them by; token: as in `Guard`; rate: queries a second for each client, 0 for any
    number; waiting: how many queries may be in line, and how many filmstrips.
    """
    app = FastAPI(
        title="VoP",
        summary="Moments of videos that fit a text",
        version=__version__,
        docs_url=None,  # these pages come from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.room = Room(indexes, rate, waiting)
    for route in (_add_page, _add_search, _add_videos):
        route(app)
    _add_errors(app)
    return Guard(app, token)


class Room:
    """What requests share."""

    def __init__(self, indexes: Mapping[str, Index], rate: float, waiting: int) -> None:
        self.indexes, self.shelf, self.rate = dict(indexes), Shelf(indexes.values()), Rate(rate)
        self.searches, self.strips = Line(RUNNING, waiting), Line(RUNNING, waiting)
        self.durations = {
            content: float(seconds)
            for index in indexes.values()
            for content, seconds in zip(index.contents, index.duration_V, strict=True)
        }

    def index(self, name: str) -> tuple[str, Index]:
        """An index by its name, or the first one. Raises AwayError."""
        name = name or next(iter(self.indexes))
        if name not in self.indexes:
            raise AwayError(404, f"no index {name!r}; valid: {', '.join(self.indexes)}")
        return name, self.indexes[name]

    def moment(self, hit: Hit) -> Moment:
        """A hit as it is shown: no path of this machine."""
        content = self.shelf.content(hit.video)
        also = [self.shelf.name(path) for path in hit.also]
        name, duration = self.shelf.name(hit.video), self.durations[content]
        return Moment(video=content, name=name, start=hit.start, end=hit.end, duration=duration, score=hit.score, also=also)


def _room(request: Request) -> Room:
    room: Room = request.app.state.room
    return room


InRoom = Annotated[Room, Depends(_room)]


def _on_shelf(video: str, room: InRoom) -> Video:
    return room.shelf.find(video)


OnShelf = Annotated[Video, Depends(_on_shelf)]


def _add_page(app: FastAPI) -> None:
    html, inline = make_page()

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"content-security-policy": policy(inline)})

    @app.get(HEALTH, summary="Whether the server answers")
    async def health() -> Health:
        return Health()


def _add_search(app: FastAPI) -> None:
    @app.get("/api/indexes", summary="What is searched")
    async def about(room: InRoom) -> About:
        return About(version=__version__, indexes=[describe(name, index) for name, index in room.indexes.items()])

    @app.get("/api/search", summary="Moments that fit a text", responses=_refusals(404, 422, 429, 503))
    async def search(request: Request, room: InRoom, asked: Annotated[Asked, Query()]) -> Found:
        name, index = room.index(asked.index)
        room.rate.take(request.client.host if request.client else "")
        seconds, hits = await room.searches.run(_timed, index, asked, room.shelf.pattern(asked.path))
        return Found(index=name, q=asked.q, seconds=seconds, hits=[room.moment(hit) for hit in hits])


def _add_videos(app: FastAPI) -> None:
    away = _refusals(404, 409, 410, 501)

    @app.get("/api/videos/{video}", summary="A video", responses=away)
    async def info(video: str, on_shelf: OnShelf, room: InRoom) -> VideoInfo:
        return VideoInfo(video=video, name=room.shelf.name(room.shelf.files[video][0].path), bytes=on_shelf.size)

    @app.head("/api/videos/{video}/file", include_in_schema=False)
    @app.get("/api/videos/{video}/file", summary="Its bytes, or a range of them", responses=away)
    async def file(on_shelf: OnShelf) -> FileResponse:
        return FileResponse(on_shelf.path, media_type=on_shelf.media_type, headers={"cache-control": "private, no-cache"})

    @app.get("/api/videos/{video}/strip", summary="Frames of a part of it, a JPEG", responses={**away, **_refusals(422, 503)})
    async def frames(
        on_shelf: OnShelf, room: InRoom, start: Annotated[Seconds, Query()], end: Annotated[Seconds, Query()]
    ) -> Response:
        picture = await room.strips.run(strip, on_shelf, round(start, 2), round(end, 2))
        return Response(picture, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return refused(error.status, str(error), {"retry-after": str(max(1, round(error.wait)))})

    @app.exception_handler(VopError)
    async def wrong(request: Request, error: VopError) -> JSONResponse:
        return refused(error.status if isinstance(error, AwayError) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused(422, "; ".join(f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()))

    @app.exception_handler(HTTPException)
    async def odd(request: Request, error: HTTPException) -> JSONResponse:
        return refused(error.status_code, f"{request.method} {request.url.path[:100]}: {error.detail}", error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.exception("%s", error, exc_info=error)
        return refused(500, "the server failed at this; its log says why")


def refused(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that says why there is none."""
    return JSONResponse({"error": visible(error)}, status, headers)


def describe(name: str, index: Index) -> IndexInfo:
    """An index as the page shows it."""
    made, experiment = index.table.manifest, index.retriever.experiment
    model = " of ".join(dict.fromkeys((experiment.name, experiment.backbone.name)))
    sizes = {"videos": len(index.contents), "windows": len(index), "window": made.window, "stride": made.stride}
    return IndexInfo(name=name, model=visible(model), **sizes)


def _timed(index: Index, asked: Asked, path: str) -> tuple[float, list[Hit]]:
    started = time.perf_counter()
    hits = index.search(asked.q, path=path, **asked.filters())
    return round(time.perf_counter() - started, 6), hits
