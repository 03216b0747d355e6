"""Commands that use a tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.arguments import Overrides, seconds
from pipelines.cli.moments import print_indexed, print_moments
from pipelines.cli.say import say
from pipelines.cli.tables import print_hits
from vop.config import ConfigError, is_override

RANGE = "in seconds, MIN:MAX; one of them may be left out"


def index(
    videos: Annotated[str, typer.Argument(help="a folder of videos, searched at any depth, or a URI")],
    to: Annotated[str, typer.Option(help="the index: a new folder, or one that grows")],
    overrides: Overrides = None,
    model: Annotated[
        str, typer.Option(help="of a new index: an adapter as in vop search, or a CLIP, NAME/TAG [default: ViT-B-32/openai]")
    ] = "",
    window: Annotated[float | None, typer.Option(help="seconds of a window [default: 10]")] = None,
    stride: Annotated[float | None, typer.Option(help="seconds from one window's start to the next one's [default: 5]")] = None,
) -> None:
    """Make videos searchable, long ones by the moment; no frames are kept. Run it again for what is new, changed or gone."""
    from pipelines.search.check import check_index

    check_index(videos, to, model, window, stride)
    from pipelines.search.build import index

    print_indexed(index(videos, to, model, window, stride, overrides or []))


def search(
    place: Annotated[
        str, typer.Argument(help="an index; or an adapter (folder, run, models:/NAME@ALIAS, hf://ORG/NAME) and then VIDEOS")
    ],
    words: Annotated[
        list[str] | None, typer.Argument(help="texts to search for; also key=value, such as data.cache=/scratch")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="moments of an index, or videos of a folder, a text")] = 5,
    queries: Annotated[Path | None, typer.Option(help="a file of texts, one a line")] = None,
    like: Annotated[list[str] | None, typer.Option(help="a picture or a clip to search for")] = None,
    threshold: Annotated[float | None, typer.Option(help="the least score")] = None,
    path: Annotated[str, typer.Option(help="what the path of a video must match, such as '*/kitchen/*'")] = "",
    duration: Annotated[str, typer.Option(help=f"of a video, {RANGE}")] = "",
    time: Annotated[str, typer.Option(help=f"where in a video, {RANGE}")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Which moments of an index fit a text best? Or which videos of a folder, by an adapter?

    Of a folder the first search decodes and embeds the videos, later ones only new ones. The other options are for an index.
    """
    from vop.index.table import is_index

    overrides = [word for word in words or () if is_override(word)]
    texts = [word for word in words or () if word not in overrides]
    if not is_index(place):
        if queries or like or threshold is not None or path or duration or time or as_json:
            raise ConfigError(f"{place} is no index, and only --top is for a folder: make one, vop index VIDEOS --to INDEX")
        _search_folder(place, texts, top, overrides)
        return
    from pipelines.search.check import read_queries
    from vop.index.search import Index

    asked: list[dict[str, Any]] = [{"text": text} for text in [*texts, *read_queries(queries)]]
    asked += [{"like": file} for file in like or ()]
    if not asked:
        raise ConfigError("give texts to search for, --queries FILE or --like FILE")
    filters: dict[str, Any] = {"top": top, "threshold": threshold, "path": path or "*"}
    filters |= {"duration": seconds("--duration", duration), "time": seconds("--time", time)}
    index = Index.open(place, overrides=overrides)
    print_moments(index, [(query, index.search(**query, **filters)) for query in asked], as_json)


def _search_folder(adapter: str, words: list[str], top: int, overrides: list[str]) -> None:
    """The videos of a folder, the first of the words, that fit the others."""
    from pipelines.search.check import check_search

    if not words:
        raise ConfigError(f"{adapter} is no index: with an adapter, give a folder of videos and texts to search for")
    videos, *wanted = words
    check_search(adapter, videos, wanted)
    from pipelines.search.search import search

    print_hits(search(adapter, videos, wanted, top, overrides))


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="the authors' VoP_msrvtt9k.pth")],
    output: Annotated[Path, typer.Argument(help="the folder of the new adapter")],
    overrides: Overrides = None,
    prefix: Annotated[int, typer.Option(help="text prompts after the start token")] = 4,
    suffix: Annotated[int, typer.Option(help="text prompts before the last place")] = 4,
) -> None:
    """Make an adapter of the authors' released basic VoP (backbone.pretrained=... names the CLIP that it belongs to)."""
    from vop.model.adapter import save_adapter
    from vop.paper.release import convert

    say("adapter {}", save_adapter(convert(checkpoint, prefix, suffix, overrides or []), output))
