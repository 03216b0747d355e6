"""The windows of many videos, decoded on the CPUs of the cluster while whoever asks for them embeds those before."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vop.annotations.copies import hash_all
from vop.messages import one_line
from vop.places import PlaceError
from vop.secrets import masked
from vop.video.frames import FrameError
from vop.video.windows import WindowRule, Windows, read_windows

AHEAD = 2  # parts of a video (`windows.AT_ONCE` windows each) that a task has ready before it waits


@dataclass(frozen=True)
class End:
    """Of a video's windows. content: the SHA-256 of its file; error: why it cannot be read, else ""."""

    content: str = ""
    error: str = ""


def decoded(path: str, rule: WindowRule) -> Iterator[Windows | End]:
    """The windows of a video, and what is known of it at their end; an odd file ends nothing but itself.

    Raises PlaceError for what is wrong with the machine.
    """
    from pipelines.data.decode import of_the_machine

    try:
        yield from read_windows(path, rule)
        content = str(hash_all(path)["digest"])
        yield End(content, "" if content else f"{path}: it went away while it was read")
    except Exception as error:
        if fault := of_the_machine(error):
            raise PlaceError(f"{path}: {one_line(fault)}") from error
        yield End(error=masked(str(error) if isinstance(error, FrameError) else f"{path}: {error!r}"))


def stream(paths: Sequence[str], rule: WindowRule) -> Generator[tuple[str, Windows | End]]:
    """What `decoded` gives, of each video in order, several videos at once: a Ray task a video, one a CPU.

    Memory: AHEAD + 1 parts of a video for each CPU, in Ray's object store, however long the videos are.
    """
    import ray

    from pipelines.cluster.connect import cluster_has, connected, labelled
    from pipelines.cluster.probe import check_shared

    with connected():
        if seen := next(filter(os.path.isfile, paths), ""):
            check_shared({f"the video {seen}": seen})
        task = ray.remote(decoded).options(
            num_cpus=1,
            num_returns="streaming",
            _generator_backpressure_num_objects=AHEAD,
            scheduling_strategy="SPREAD",
            **labelled("decode"),
        )
        todo = iter(paths)
        running: dict[Any, str] = {}
        try:
            while True:
                free = max(1, int(cluster_has("CPU", "decode"))) - len(running)
                running |= {task.remote(path, rule): path for path in islice(todo, free)}
                if not running:
                    return
                (ready, *_), _ = ray.wait(list(running), num_returns=1)
                item = next(ready, None)
                if item is None:
                    del running[ready]
                else:
                    yield running[ready], ray.get(item)
        finally:
            for left in running:
                ray.cancel(left)
