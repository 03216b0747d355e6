"""Commands that use a tuned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.arguments import AdapterPlace, Overrides
from pipelines.cli.say import say
from pipelines.cli.tables import print_hits
from vop.config import is_override


def search(
    adapter: AdapterPlace,
    videos: Annotated[str, typer.Argument(help="a folder of videos, searched at any depth")],
    texts: Annotated[list[str], typer.Argument(help="texts to search for; also key=value, such as data.cache=/scratch")],
    top: Annotated[int, typer.Option(min=1, help="videos a text")] = 5,
) -> None:
    """Which of your videos fits a text best? The first search decodes and embeds the videos, later ones only new ones."""
    from pipelines.search.check import check_search

    overrides = [text for text in texts if is_override(text)]
    wanted = [text for text in texts if text not in overrides]
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
