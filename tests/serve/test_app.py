"""The API: what it finds, what it plays, what it refuses, and how it says so."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from pipelines.search import windows
from pipelines.search.build import index
from pipelines.serve.answers import LONGEST, MOST
from pipelines.serve.app import RUNNING, make_app
from pipelines.serve.limits import BusyError, Rate
from pipelines.serve.shelf import Shelf
from pipelines.serve.strips import FRAMES, SIDE, WIDTH, strip
from tests.serve.conftest import HERE, LONG, MARKUP, ORDER
from tests.support.long import stream_here
from vop.index.search import Hit, Index
from vop.index.table import File

BOX = "a golden box on a wavy background"
TOKEN = "a-token-of-more-than-16-signs"


def found(client: TestClient, q: str = BOX, **filters: Any) -> list[dict[str, Any]]:
    answer = client.get("/api/search", params={"q": q, **filters})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["hits"])


def error(answer: httpx2.Response, status: int) -> str:
    """Of a refusal, which has the same form whatever was wrong."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and answer.headers["content-type"] == "application/json"
    return str(answer.json()["error"])


# -- searching -------------------------------------------------------------------------------------------------------------


def test_a_search_is_that_of_the_index(client: TestClient, indexes: dict[str, Index], served: Path) -> None:
    answer = client.get("/api/search", params={"q": BOX, "top": 4, "index": "four"}).json()
    expected = indexes["four"].search(BOX, top=4)
    assert (answer["index"], answer["q"]) == ("four", BOX) and answer["seconds"] > 0
    assert [hit["score"] for hit in answer["hits"]] == [hit.score for hit in expected]
    for hit, own in zip(answer["hits"], expected, strict=True):
        assert (hit["start"], hit["end"], hit["also"]) == (own.start, own.end, [])
        assert hit["name"] == str(Path(own.video).relative_to(served / "videos")) and str(served) not in json.dumps(hit)


def test_the_first_index_answers_where_none_is_named(client: TestClient, indexes: dict[str, Index]) -> None:
    assert found(client, top=100)[0]["end"] == indexes["ten"].search(BOX, top=1)[0].end
    assert error(client.get("/api/search", params={"q": BOX, "index": "five"}), 404) == "no index 'five'; valid: ten, four"


def test_filters(client: TestClient) -> None:
    def names(**filters: Any) -> set[str]:
        return {hit["name"].removesuffix(".mp4") for hit in found(client, top=100, **filters)}

    assert names() == set(ORDER)
    for path in ("kitchen", "kitchen/*", "*/kitchen/*", "*forward.mp4", "kit*for*"):
        assert names(path=path) == {"kitchen/forward"}, path
    assert names(path="/") == names(path="?*") == set(ORDER), "not of the folder that all lie in: served, videos"
    assert names(path="served") == names(path="/*videos/*") == names(path="[") == set()
    assert names(max_duration=10) == {"short"} and "short" not in names(min_duration=10)
    assert all(hit["start"] >= 10 and hit["end"] <= 25 for hit in found(client, top=100, after=10, before=25))
    scores = [hit["score"] for hit in found(client, top=100)]
    assert [hit["score"] for hit in found(client, top=100, threshold=0.3)] == [score for score in scores if score >= 0.3]
    assert len(found(client, top=1)) == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "q: Field required"),
        ({"q": ""}, "q: String should have at least 1 character"),
        ({"q": " \t"}, "q: String should match"),
        ({"q": "a" * (LONGEST + 1)}, f"q: String should have at most {LONGEST} characters"),
        ({"q": "a", "top": 0}, "top: Input should be greater than or equal to 1"),
        ({"q": "a", "top": MOST + 1}, f"top: Input should be less than or equal to {MOST}"),
        ({"q": "a", "top": "many"}, "top: Input should be a valid integer"),
        ({"q": "a", "threshold": "nan"}, "threshold: Input should be a finite number"),
        ({"q": "a", "after": "inf"}, "after: Input should be"),
        ({"q": "a", "before": -1}, "before: Input should be greater than or equal to 0"),
        ({"q": "a", "path": "*" * 201}, "path: String should have at most 200 characters"),
        ({"q": "a", "tpo": 3}, "tpo: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_query_is_a_sentence(client: TestClient, asked: dict[str, Any], said: str) -> None:
    assert said in error(client.get("/api/search", params=asked), 422)


@pytest.mark.parametrize(
    "q", ["a" * LONGEST, "\0\x1b[31m", "'; DROP TABLE videos; --", "%s%n{}$(id)", "\u202eright to left", "🐕" * 100]
)
def test_any_text_is_a_query(client: TestClient, q: str) -> None:
    assert len(found(client, q, top=3)) == 3


def test_a_pattern_takes_no_time(client: TestClient) -> None:
    started = time.process_time()
    assert found(client, path="*a" * 99 + "z") == []
    assert time.process_time() - started < 2


# -- videos ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a video and an index of it, to be changed."""
    (tmp_path / "videos").mkdir()
    shutil.copy(served / "videos/short.mp4", tmp_path / "videos/one.mp4")
    monkeypatch.setattr(windows, "stream", stream_here)
    index(str(tmp_path / "videos"), str(tmp_path / "index"), "ViT-toy")
    return tmp_path


def client_of(folder: Path, **options: Any) -> TestClient:
    return TestClient(make_app({"one": Index.open(folder / "index")}, **options), base_url=HERE, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("wanted", "status", "part"),
    [
        (None, 200, slice(None)),
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=-50", 206, slice(-50, None)),
        ("bytes=500-", 206, slice(500, None)),
    ],
)
def test_a_range_of_a_video(client: TestClient, served: Path, wanted: str | None, status: int, part: slice) -> None:
    (hit,) = found(client, path="short", top=1)
    answer = client.get(f"/api/videos/{hit['video']}/file", headers={"range": wanted} if wanted else {})
    data = (served / "videos/short.mp4").read_bytes()
    assert (answer.status_code, answer.content) == (status, data[part])
    assert answer.headers["content-type"] == "video/mp4" and answer.headers["accept-ranges"] == "bytes"
    head = client.head(f"/api/videos/{hit['video']}/file")
    assert (head.status_code, head.content, int(head.headers["content-length"])) == (200, b"", len(data))


@pytest.mark.parametrize("wanted", ["bytes=999999999-", "bytes=9-3", "bytes=" + ",".join(["0-1"] * 5000)])
def test_an_odd_range_costs_nothing(client: TestClient, wanted: str) -> None:
    (hit,) = found(client, path="short", top=1)
    assert client.get(f"/api/videos/{hit['video']}/file", headers={"range": wanted}).status_code in (200, 400, 416)


def test_a_strip_shows_a_part_in_the_order_of_time(client: TestClient) -> None:
    (hit,) = found(client, path="kitchen", top=1)
    place = f"/api/videos/{hit['video']}/strip"
    answer = client.get(place, params={"start": 15, "end": 25})
    assert answer.headers["content-type"] == "image/jpeg" and "max-age" in answer.headers["cache-control"]
    shown = Image.open(io.BytesIO(answer.content))
    assert shown.size == (WIDTH, SIDE) == (FRAMES * (SIDE + 2) - 2, SIDE)
    first, last = (shown.crop((x, 0, x + SIDE, SIDE)).resize((1, 1)).getpixel((0, 0)) for x in (0, WIDTH - SIDE))
    assert first != last, "the second scene, then the third"
    hits = strip.cache_info().hits
    assert client.get(place, params={"start": 15, "end": 25}).content == answer.content
    assert strip.cache_info().hits == hits + 1
    for wrong in ({}, {"start": -1, "end": 2}, {"start": "nan", "end": 2}, {"start": 3, "end": 2}, {"start": 500, "end": 600}):
        assert "/" not in error(client.get(place, params=wrong), 422)


def test_what_has_gone_or_changed_is_said(copied: Path) -> None:
    client, file = client_of(copied), copied / "videos/one.mp4"
    (hit,) = found(client, "a star")
    places = [f"/api/videos/{hit['video']}{part}" for part in ("", "/file", "/strip?start=0&end=3")]
    assert [client.get(place).status_code for place in places] == [200] * 3
    os.utime(file, ns=(0, 0))
    assert {error(client.get(place), 409) for place in places} == {
        "one.mp4 has changed since it was indexed: run vop index again"
    }
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert {error(client.get(place), 409) for place in places} == {
        "one.mp4 has changed since it was indexed: run vop index again"
    }
    file.unlink()
    assert {error(client.get(place), 410) for place in places} == {"one.mp4 has gone since it was indexed: run vop index again"}
    assert found(client, "a star") == [hit], "it is found nevertheless"


def test_a_copy_is_played_where_the_first_file_has_gone(copied: Path) -> None:
    shutil.copy2(copied / "videos/one.mp4", copied / "videos/two.mp4")
    index(str(copied / "videos"), str(copied / "index"))
    client = client_of(copied)
    (hit,) = found(client, "a star")
    assert (hit["name"], hit["also"]) == ("one.mp4", ["two.mp4"])
    (copied / "videos/one.mp4").unlink()
    assert client.get(f"/api/videos/{hit['video']}/file").status_code == 200


def test_a_video_elsewhere_is_not_fetched(indexes: dict[str, Index], monkeypatch: pytest.MonkeyPatch) -> None:
    content, place = "c" * 64, "s3://KEY:SECRET@bucket/clip.mp4"
    monkeypatch.setattr(Shelf, "__init__", lambda self, indexes: None)
    shelf = Shelf([])
    shelf.files, shelf._common = {content: [File(place, 1, 1, content)]}, ""
    with pytest.raises(Exception, match="is not on this machine") as told:
        shelf.find(content)
    assert getattr(told.value, "status", 0) == 501 and "SECRET" not in str(told.value)


# -- attacks ---------------------------------------------------------------------------------------------------------------

OUTSIDE = [
    "../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "..\\..\\etc\\passwd",
    "file:///etc/passwd",
    "%00",
    "0" * 64,
    "{served}/videos/short.mp4",
    "{served}/ten.index/index.json",
]


@pytest.mark.parametrize("outside", OUTSIDE)
def test_nothing_but_videos_of_the_index_is_served(client: TestClient, served: Path, outside: str) -> None:
    for place in ("/api/videos/{}", "/api/videos/{}/file", "/api/videos/{}/strip?start=0&end=1", "/{}", "/api/{}"):
        answer = client.get(place.format(outside.format(served=served)))
        assert answer.status_code == 404 and list(answer.json()) == ["error"], (place, answer.text)


@pytest.mark.parametrize(
    "place", ["/api", "/api/", "/api/videos", "/api/videos/", "/docs", "/redoc", "/static", "/.git/config"]
)
def test_there_are_no_listings(client: TestClient, place: str) -> None:
    error(client.get(place, follow_redirects=False), 404)


def test_nothing_can_be_changed(client: TestClient) -> None:
    (hit,) = found(client, path="short", top=1)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for place in ("/", "/api/search", f"/api/videos/{hit['video']}/file"):
            error(client.request(method, place), 405)


def test_names_are_data(client: TestClient) -> None:
    names = {hit["name"] for hit in found(client, top=100)}
    assert {f"{MARKUP}.mp4", f"{LONG}.mp4"} <= names
    answer = client.get("/api/search", params={"q": MARKUP})
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"
    page = client.get("/")
    assert MARKUP not in page.text and "innerHTML" not in page.text and "onclick=" not in page.text


def test_every_answer_has_the_headers_that_browsers_heed(client: TestClient) -> None:
    (hit,) = found(client, path="short", top=1)
    for place in ("/", "/api/indexes", "/api/search", "/nothing", f"/api/videos/{hit['video']}/file"):
        headers = client.get(place).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY" and headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["content-security-policy"].startswith("default-src 'none'; "), place
        assert "unsafe" not in headers["content-security-policy"] and "server" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil", "[::1", "", "0.0.0.0"]
)
def test_a_page_that_calls_this_machine_by_another_name_is_refused(client: TestClient, host: str) -> None:
    for place in ("/", "/api/indexes", "/api/health"):
        assert error(client.get(place, headers={"host": host}), 403)
    for own in ("127.0.0.1:1", "localhost", "[::1]:8000"):
        assert client.get("/api/health", headers={"host": own}).json() == {"status": "ok"}


def test_a_page_of_another_site_may_link_here_and_ask_nothing(client: TestClient) -> None:
    for site in ("cross-site", "same-site"):
        assert error(client.get("/api/search", params={"q": "a"}, headers={"sec-fetch-site": site}), 403)
        assert client.get("/", headers={"sec-fetch-site": site}).status_code == 200
    assert client.get("/api/search", params={"q": "a"}, headers={"sec-fetch-site": "same-origin"}).status_code == 200


def test_an_address_has_an_end(client: TestClient) -> None:
    assert "more than 8192 bytes" in error(client.get("/api/search", params={"q": "a" * 9000}), 414)


# -- who may ask -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(indexes: dict[str, Index]) -> Iterator[TestClient]:
    with TestClient(make_app(indexes, token=TOKEN), base_url="http://server.example:8000") as client:
        yield client


def test_without_the_token_there_is_nothing(closed: TestClient) -> None:
    for place in (
        "/",
        "/api/indexes",
        "/api/search?q=a",
        "/api/openapi.json",
        "/?token=",
        f"/?token={TOKEN[:-1]}",
        f"/api/indexes?token={TOKEN}",
    ):
        assert "Authorization: Bearer" in error(closed.get(place), 401)
    for wrong in ("", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xff"):
        assert error(closed.get("/api/indexes", headers={"authorization": wrong.encode("latin-1")}), 401)
    for cookie in ("vop-token-8000=", "vop-token-8000", f"vop-token-9000={TOKEN}", "=;=", f"x={TOKEN}"):
        assert error(closed.get("/api/indexes", headers={"cookie": cookie}), 401)
    assert closed.get("/api/health").json() == {"status": "ok"}


def test_the_token_opens_the_page_and_the_api(closed: TestClient) -> None:
    assert closed.get("/api/indexes", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    entered = closed.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/") and TOKEN not in entered.text
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(entered.headers["set-cookie"].split("; "))
    assert closed.get("/").status_code == closed.get("/api/search?q=a").status_code == 200, "by the cookie"


# -- how much at once ------------------------------------------------------------------------------------------------------


def test_two_hundred_clients_get_an_answer_each(indexes: dict[str, Index], monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there is room for are served; the others are told so at once, and later ones are served again."""

    def slow(self: Index, text: str, **filters: object) -> list[Hit]:
        time.sleep(0.05)
        return []

    monkeypatch.setattr(Index, "search", slow)
    app = make_app(indexes, waiting=20)

    async def ask() -> tuple[list[httpx2.Response], float, httpx2.Response]:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=HERE) as client:
            started = time.monotonic()
            answers = await asyncio.gather(*(client.get("/api/search", params={"q": "a"}) for _ in range(200)))
            return list(answers), time.monotonic() - started, await client.get("/api/search", params={"q": "a"})

    answers, seconds, later = asyncio.run(ask())
    served = [answer for answer in answers if answer.status_code == 200]
    assert 20 + RUNNING <= len(served) < 100 and seconds < 10
    for answer in answers:
        if answer not in served:
            assert error(answer, 503).startswith("overloaded: ") and answer.headers["retry-after"] == "1"
    assert later.status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_ask_again(indexes: dict[str, Index]) -> None:
    client = TestClient(make_app(indexes, rate=0.5), base_url=HERE)
    assert client.get("/api/search?q=a").status_code == 200
    answer = client.get("/api/search?q=a")
    assert (
        error(answer, 429).startswith("more than 0.5 queries a second; ask again in ") and answer.headers["retry-after"] == "2"
    )
    assert client.get("/api/indexes").status_code == 200


def test_a_rate_counts_each_client_and_forgets() -> None:
    now = [0.0]
    rate = Rate(5, clock=lambda: now[0])
    for _ in range(10):
        rate.take("one")
    with pytest.raises(BusyError, match=r"more than 5 queries a second; ask again in 0\.2 s"):
        rate.take("one")
    rate.take("two")
    now[0] += 0.2
    rate.take("one")
    with pytest.raises(BusyError):
        rate.take("one")
    for client in range(20_000):
        rate.take(str(client))
    assert len(rate._free_at) <= 10_000
    for _ in range(100):
        Rate(0).take("any number")


# -- what it says of itself ------------------------------------------------------------------------------------------------


def test_the_description_is_complete(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert set(described["paths"]) == {
        *("/api/health", "/api/indexes", "/api/search"),
        *(f"/api/videos/{{video}}{part}" for part in ("", "/file", "/strip")),
    }
    search = described["paths"]["/api/search"]["get"]
    assert {each["name"] for each in search["parameters"]} >= {"q", "index", "top", "threshold", "path", "after", "before"}
    assert {"200", "422", "429", "503"} <= set(search["responses"])


def test_about(client: TestClient) -> None:
    ten, four = client.get("/api/indexes").json()["indexes"]
    assert (ten["name"], ten["model"], ten["videos"], ten["window"], ten["stride"]) == ("ten", "ViT-toy", len(ORDER), 10, 5)
    assert four["windows"] > ten["windows"]


def test_an_unexpected_error_tells_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "search", lambda *_, **__: 1 / 0)
    assert error(client.get("/api/search?q=a"), 500) == "the server failed at this; its log says why"
