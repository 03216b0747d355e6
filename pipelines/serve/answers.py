"""What `vop serve` is asked and what it answers, as its OpenAPI description says them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from vop.index.search import EVERYTHING

LONGEST, LONGEST_PATH, MOST = 500, 200, 100  # characters of a query and of a pattern; moments of an answer
FOREVER = 1e7  # seconds
Seconds = Annotated[float, Field(ge=0, le=FOREVER, allow_inf_nan=False)]


class Asked(BaseModel, extra="forbid"):
    """What is searched for, in which index, and which windows of videos may be found."""

    q: Annotated[str, Field(min_length=1, max_length=LONGEST, pattern=r"\S", description="a text")]
    index: Annotated[str, Field(max_length=LONGEST_PATH, description="the name of an index; the first one where left out")] = ""
    top: Annotated[int, Field(ge=1, le=MOST, description="how many moments")] = 12
    threshold: Annotated[float | None, Field(allow_inf_nan=False, description="the least score")] = None
    path: Annotated[str, Field(max_length=LONGEST_PATH, description="a part of a video's name, or a pattern: */kitchen/*")] = ""
    min_duration: Annotated[Seconds, Field(description="seconds of a video")] = 0
    max_duration: Annotated[Seconds | None, Field(description="seconds of a video")] = None
    after: Annotated[Seconds, Field(description="seconds in a video")] = 0
    before: Annotated[Seconds | None, Field(description="seconds in a video")] = None

    def filters(self) -> dict[str, Any]:
        """As `Index.search` takes them, but for the path."""
        return {
            "top": self.top,
            "threshold": self.threshold,
            "duration": (self.min_duration, EVERYTHING[1] if self.max_duration is None else self.max_duration),
            "time": (self.after, EVERYTHING[1] if self.before is None else self.before),
        }


class Moment(BaseModel):
    """A moment: the video's id and name, where the moment lies in it, its score; also: other names of the same video."""

    video: str
    name: str
    start: float
    end: float
    duration: float
    score: float
    also: list[str] = []


class Found(BaseModel):
    """The moments that fit best, best first, and how long the search took, waiting left out."""

    index: str
    q: str
    seconds: float
    hits: list[Moment]


class IndexInfo(BaseModel):
    """What is searched: the name of an index, its model, its videos and their windows, in seconds."""

    name: str
    model: str
    videos: int
    windows: int
    window: float
    stride: float


class About(BaseModel):
    """The indexes, and the limits of a query."""

    version: str
    indexes: list[IndexInfo]
    longest_query: int = LONGEST
    most_moments: int = MOST


class VideoInfo(BaseModel):
    """A video that can be shown."""

    video: str
    name: str
    bytes: int


class Health(BaseModel):
    """That the server answers."""

    status: str = "ok"


class Refused(BaseModel):
    """Why a request is not answered, in a sentence."""

    error: str
