"""What `vop index` and a search in an index print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipelines.cli.say import say
from pipelines.cli.table import print_table
from vop.messages import visible

if TYPE_CHECKING:
    from pipelines.search.build import Indexed
    from vop.index.search import Hit, Index


def print_indexed(found: Indexed) -> None:
    """What was done, and what the index holds now."""
    say("{} videos embedded, {} known by their content, {} gone", found.embedded, found.kept, found.gone)
    new = f", {len(found.failed)} of them found now" if found.failed else ""
    unreadable = f", {found.unreadable} files cannot be read{new}" if found.unreadable else ""
    say("index {}: {} videos, {} windows{}", found.folder, found.videos, found.windows, unreadable)


def print_moments(index: Index, found: Sequence[tuple[Mapping[str, str], Sequence[Hit]]], as_json: bool) -> None:
    """A row a moment, best first, for each query; or all of it as JSON."""
    if as_json:
        searched = {"videos": len(index.contents), "windows": len(index), "unreadable": len(index.unreadable)}
        answers = [{**query, "hits": [asdict(hit) for hit in hits]} for query, hits in found]
        print(json.dumps({"format": 1, "index": index.table.folder, **searched, "queries": answers}))
        return
    for query, hits in found:
        rows = [(n, f"{hit.score:.3f}", minutes(hit.start), minutes(hit.end), hit.video) for n, hit in enumerate(hits, start=1)]
        heads = ("#", "similarity", "from", "to", "video")
        print_table(visible(*query.values()), heads, rows, right=heads[:4])
    unread = f", {len(index.unreadable)} files cannot be read" if index.unreadable else ""
    say("{} windows of {} videos searched{}", len(index), len(index.contents), unread)


def minutes(seconds: float) -> str:
    """A place in a video as players show it: `3:05`, `1:02:05`."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02}"
