"""The picture of what was retrieved: which queries it shows, and what is framed."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image, ImageColor, ImageFont

from pipelines.report.picture import FIRST, GAP, MARGIN, RIGHT, TEXT, WIDTH, drawn, spread, wrapped
from pipelines.report.retrieved import HEIGHT, Ranking


def ranking(rank: float, own: str = "a") -> Ranking:
    return Ranking(f"query {rank:g}", own, "", rank, ["b", "a", "c"], [0.9, 0.8, 0.7])


def strips() -> dict[str, str]:
    """A strip of one colour for each clip."""
    found = {}
    for clip, color in zip("abc", ("navy", "gold", "gray"), strict=True):
        buffer = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT), color).save(buffer, "PNG")
        found[clip] = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return found


def test_queries_are_spread_from_the_best_rank_to_the_worst() -> None:
    rankings = [ranking(rank) for rank in (9, 1, 5, 3, 7, 2, 8, 4, 6, 10)]
    assert [r.rank for r in spread(rankings, 5)] == [2, 4, 6, 8, 10]
    assert [r.rank for r in spread(rankings, 1)] == [6]
    assert len(spread(rankings, 60)) == 10 and len(spread(rankings[:1], 3)) == 1


def test_the_right_clip_alone_is_framed() -> None:
    picture = drawn([ranking(2), ranking(40, own="z")], strips())
    green = np.all(np.asarray(picture) == ImageColor.getrgb(RIGHT), axis=-1)
    row = picture.height // 2
    lefts = [MARGIN + TEXT + column * (WIDTH + GAP) for column in range(FIRST)]
    framed = [bool(green[MARGIN - 2, left : left + WIDTH].all()) for left in lefts]
    assert framed == [False, True, False]
    assert not green[row:].any()
    assert picture.getpixel((lefts[1] + 10, MARGIN + 10)) == ImageColor.getrgb("navy")


def test_a_long_query_is_cut_and_no_line_is_too_wide() -> None:
    font = ImageFont.load_default(16)
    lines = wrapped("a very long query " * 20, font, 200)
    assert len(lines) == 4 and lines[-1].endswith("...")
    assert all(font.getlength(line) <= 200 for line in lines[:3])
    assert wrapped("short", font, 200) == ["short"]
