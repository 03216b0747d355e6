"""A picture of what was retrieved: queries of a run, each with the clips that came first, the right one framed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipelines.report.retrieved import HEIGHT, STRIP, Ranking, pictures, read_run
from vop.config import Experiment

FIRST = 3  # clips shown for a query
TEXT, GAP, LINE, MARGIN = 250, 14, 20, 16  # pixels: the column of queries, between clips, of a line of text, around all
WIDTH = STRIP * (HEIGHT + 2) - 2  # of a clip's strip
INK, SOFT, RIGHT, PAPER = "#1c2430", "#5a6472", "#0a8a4f", "#ffffff"


def write_picture(where: str, said: Experiment, output: Path, limit: int) -> int:
    """Write a PNG of `limit` queries, spread evenly from the best rank to the worst; returns how many there were.

    Raises as `read_run` and `pictures` do.
    """
    run = read_run(where, said)
    rankings = spread(run.rankings, limit)
    shown = [Ranking(r.query, r.video_id, r.group, r.rank, r.top[:FIRST], r.scores[:FIRST]) for r in rankings]
    strips = pictures(run.experiment, [(ranking,) for ranking in shown])
    output.parent.mkdir(parents=True, exist_ok=True)
    drawn(shown, strips).save(output, optimize=True)
    return len(run.rankings)


def spread(rankings: Sequence[Ranking], limit: int) -> list[Ranking]:
    """The queries in the middle of `limit` equal parts of all, sorted by rank: no choice is made by hand."""
    ordered = sorted(rankings, key=lambda ranking: ranking.rank)
    count = min(limit, len(ordered))
    return [ordered[(2 * place + 1) * len(ordered) // (2 * count)] for place in range(count)]


def drawn(rankings: Sequence[Ranking], strips: Mapping[str, str]) -> Image.Image:
    """One row per query: its words and the rank of its clip, then the first clips with their similarity."""
    row = HEIGHT + LINE + 2 * GAP
    picture = Image.new("RGB", (2 * MARGIN + TEXT + FIRST * (WIDTH + GAP), 2 * MARGIN + len(rankings) * row), PAPER)
    pen, font, small = ImageDraw.Draw(picture), ImageFont.load_default(16), ImageFont.load_default(13)
    for place, ranking in enumerate(rankings):
        top = MARGIN + place * row
        lines = wrapped(ranking.query, font, TEXT - GAP)
        pen.multiline_text((MARGIN, top), "\n".join(lines), INK, font, spacing=3)
        found = f"rank of its clip: {ranking.rank:g}{'' if ranking.rank == int(ranking.rank) else ' (tied)'}"
        pen.text((MARGIN, top + LINE * len(lines) + 6), found, RIGHT if ranking.rank == 1 else SOFT, small)
        for column, (clip, score) in enumerate(zip(ranking.top, ranking.scores, strict=True)):
            left, right = MARGIN + TEXT + column * (WIDTH + GAP), clip == ranking.video_id
            picture.paste(Image.open(io.BytesIO(base64.b64decode(strips[clip].partition(",")[2]))), (left, top))
            if right:
                pen.rectangle((left - 4, top - 4, left + WIDTH + 3, top + HEIGHT + 3), outline=RIGHT, width=4)
            pen.text((left, top + HEIGHT + 5), f"{column + 1}.  {score:.3f}", RIGHT if right else SOFT, small)
    return picture


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """A text in lines of at most `width` pixels, at most four; what does not fit is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines if len(lines) <= 4 else [*lines[:3], f"{lines[3]} ..."]
