"""Files with the same bytes under several names, and whether two splits share any."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vop.annotations.records import BenchmarkError, Record
from vop.places import PlaceError, located

END_BYTES = 2**16  # hashed at both ends of files of equal size, before the whole
CHUNK = 2**20  # bytes read at once
Hash = Callable[[str], dict[str, Any]]
Hashed = Callable[[Sequence[str], Hash, str], Iterable[dict[str, Any]]]  # paths, how, what is being done -> rows


def equal_files(sizes: Mapping[str, int], hashed: Hashed) -> dict[str, str]:
    """{path: path of the first file with the same bytes}; only files of equal size are read, whole only if their ends agree.

    Files without a byte, and those that cannot be read, equal none.
    """
    groups: dict[Any, list[str]] = defaultdict(list)
    for path, size in sizes.items():
        if size:
            groups[size].append(path)
    for function, doing in ((hash_ends, "equal sizes"), (hash_all, "equal ends")):
        suspects = {path: key for key, paths in groups.items() if len(paths) > 1 for path in paths}
        groups = defaultdict(list)
        for row in hashed(sorted(suspects), function, doing):
            if row["digest"]:
                groups[suspects[row["path"]], row["digest"]].append(row["path"])
    return {path: first for paths in groups.values() for first, *others in [sorted(paths)] for path in others}


def hash_ends(path: str) -> dict[str, Any]:
    """SHA-256 of the first and last bytes of a file, "" if it cannot be read."""
    try:
        filesystem, inside = located(path)
        with filesystem.open_input_file(inside) as file:
            length = min(END_BYTES, file.size())
            ends = file.read_at(length, 0) + file.read_at(length, file.size() - length)
    except (OSError, PlaceError):
        return {"path": path, "digest": ""}
    return {"path": path, "digest": hashlib.sha256(ends).hexdigest()}


def hash_all(path: str) -> dict[str, Any]:
    """SHA-256 of a file, "" if it cannot be read."""
    digest = hashlib.sha256()
    try:
        filesystem, inside = located(path)
        with filesystem.open_input_file(inside) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except (OSError, PlaceError):
        return {"path": path, "digest": ""}
    return {"path": path, "digest": digest.hexdigest()}


def shared_by_splits(records: Iterable[Record], equal: Mapping[str, str]) -> list[tuple[Record, Record]]:
    """Pairs of records of two splits that show the same: the same bytes, and windows that overlap. equal: of `equal_files`."""
    first: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        first[equal.get(record.path, record.path)].append(record)
    return [
        (one, other)
        for same in first.values()
        for place, other in enumerate(same)
        for one in same[:place]
        if one.split != other.split and _overlap(one.window, other.window)
    ]


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is None or other is None or (one[0] < other[1] and other[0] < one[1])


def refuse_shared(records: Sequence[Record], sizes: Mapping[str, int]) -> None:
    """Raise BenchmarkError if two splits hold a video with the same bytes; sizes: bytes of each file, 0 for one without."""
    splits: dict[int, set[str]] = defaultdict(set)
    for record in records:
        splits[sizes[record.path]].add(record.split)
    suspects = {path: size for path, size in sizes.items() if size and len(splits[size]) > 1}
    with ThreadPoolExecutor() as pool:
        shared = shared_by_splits(records, equal_files(suspects, lambda paths, function, _: pool.map(function, paths)))
    if shared:
        named = ", ".join(f"{one.video_id} ({one.split}) and {other.video_id} ({other.split})" for one, other in shared[:3])
        raise BenchmarkError(
            f"{len(shared)} videos of one split have the same bytes as one of another: {named}: what is trained on would be "
            "scored; remove one of each, or allow it, benchmark.shared_videos=allow"
        )
