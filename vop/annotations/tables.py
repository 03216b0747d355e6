"""The one strict reader of annotation files: tables (CSV, TSV, JSON Lines, Parquet), JSON and text.

What is certain is accepted (another separator, capital letters, columns that nobody asked for); what would lose a word or a
row in silence is an error that names the file, the line and what is valid.
"""

from __future__ import annotations

import csv
import json
import logging
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, TypeAdapter, ValidationError

from vop.annotations.records import BenchmarkError, Split
from vop.places import amount

logger = logging.getLogger(__name__)

Row = tuple[int, dict[str, str]]  # the line (of Parquet: the row, from 1), and its values by column
Cells = tuple[list[str], list[tuple[int, list[Any]]]]  # the columns, and for each row its line and its values in their order
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
SPLIT_NAMES: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}
NAMED = 8  # names of a folder's files in an error
SHOWN = 80  # characters of a line in an error
BATCH, TEXT, UNPACKED = 64, 64 * 2**20, 100  # of Parquet: rows read at once; bytes of text, and for each byte, at most


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it must not be empty")
    return text


Caption = Annotated[str, AfterValidator(_not_blank)]


def read_table(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    encoding: str = "utf-8",
    blank: Sequence[str] = (),
) -> list[Row]:
    """The rows of a table by its extension: .jsonl and .ndjson, .parquet, all else text with separators.

    Each row has the `columns`, and those `optional` ones that the table has, stripped and not empty, but in
    those that may be `blank`; other columns are left out. Raises BenchmarkError naming file, line and fault.
    """
    expected = f"a table with the columns {', '.join(columns)}" + "".join(f" and, if you like, {name}" for name in optional)
    if path.suffix.lower() == ".parquet":
        names, rows = _parquet(path, (*columns, *optional), expected)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        names, rows = _json_lines(path, expected, encoding)
    else:
        names, rows = _separated(path, columns, expected, encoding)
    kept = _kept(path, names, columns, optional, expected)
    return [
        (line, {name: _value(path, line, name, row[place], name in blank) for name, place in kept.items()})
        for line, row in rows
    ]


def read_text(path: Path, what: str, encoding: str = "utf-8") -> str:
    """A text file, with or without a byte order mark; its lines end in a bare newline. Raises BenchmarkError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        if not path.exists():
            raise BenchmarkError(f"{path} is missing: it holds {what}; {beside(path)}") from error
        raise BenchmarkError(f"{path} cannot be read ({error.strerror}): it holds {what}") from error
    if encoding == "utf-8" and data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BenchmarkError(f"{path}: not UTF-8 text but UTF-16: save it as UTF-8, or say benchmark.encoding=utf-16")
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except (UnicodeError, LookupError) as error:
        place = data[: getattr(error, "start", 0)].count(b"\n") + 1
        hint = "save it as UTF-8, or say its encoding, as in benchmark.encoding=latin-1 (Western Europe, old Windows)"
        raise BenchmarkError(f"{path}, line {place}: not {encoding.upper()} text ({error}): {hint}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise BenchmarkError(
            f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: a NUL character, which no text has"
        )
    return text


def has_split(path: Path, split: Split) -> bool:
    """Whether the annotations of a split are there; says so if not, for what needs that split will not find it.

    Evaluation needs none for training, which may be behind a password.
    """
    if not path.exists():
        logger.warning("%s is missing: no %s videos; %s", path, SPLIT_NAMES[split], beside(path))
    return path.exists()


def beside(path: Path) -> str:
    """What lies in the folder where a file is missing; the names most like its own first."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return f"there is no folder {path.parent}"
    like = get_close_matches(path.name, names, n=NAMED, cutoff=0.0)
    more = f" and {len(names) - len(like)} more" if len(names) > len(like) else ""
    return f"its folder holds {', '.join(like) or 'nothing'}{more}"


def read_json(path: Path, what: str, shape: Any = Any, encoding: str = "utf-8") -> Any:
    """A JSON file of a shape that pydantic knows. Raises BenchmarkError, also for a key that an object has twice."""
    try:
        data = json.loads(read_text(path, what, encoding), object_pairs_hook=_once)
    except RecursionError as error:
        raise BenchmarkError(f"{path}: nested too deep to be annotations; expected {what}") from error
    except ValueError as error:
        if isinstance(error, BenchmarkError):
            raise
        raise BenchmarkError(f"{path}: not JSON: {error}") from error
    try:
        return TypeAdapter(shape).validate_python(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        at = re.sub(r"\.(\d+)", r"[\1]", "." + ".".join(str(part) for part in first["loc"])).lstrip(".")
        given = repr(first["input"])[:SHOWN]
        raise BenchmarkError(f"{path}, {at or 'the whole'}: {first['msg']}, found {given}; expected {what}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice in one object")
    return found


def _separated(
    path: Path, columns: Sequence[str], expected: str, encoding: str
) -> tuple[list[str], list[tuple[int, list[Any]]]]:
    lines = read_text(path, expected, encoding).split("\n")
    # The separator that makes the wanted columns; with one column, or none that fits, the one that the header has most of.
    fitting = [mark for mark in SEPARATORS if set(columns) <= {_plain(name) for name in lines[0].split(mark)}]
    mark = fitting[0] if len(columns) > 1 and fitting else max(SEPARATORS, key=lines[0].count)
    rows, begun = [], 1
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=mark, strict=True)
    try:
        for row in reader:
            if row and any(row):
                rows.append((begun, row))
            if any("\n" in field for field in row):
                raise BenchmarkError(f"{path}, line {begun}: a line ends inside of quotes: {lines[begun - 1][:SHOWN]!r}")
            begun = reader.line_num + 1
    except csv.Error as error:
        raise BenchmarkError(
            f"{path}, line {begun}: {error}: a quote is opened and not closed, or stands in a quoted text without being "
            f"doubled: {lines[begun - 1][:SHOWN]!r}"
        ) from error
    names = rows[0][1] if rows else []
    for line, row in rows[1:]:
        if len(row) != len(names):
            raise BenchmarkError(
                f"{path}, line {line}: {len(row)} fields between {SEPARATORS[mark]}, {len(names)} expected: a text that holds "
                f"the separator must be in double quotes: {lines[line - 1][:SHOWN]!r}"
            )
    return names, rows[1:]


def _json_lines(path: Path, expected: str, encoding: str) -> Cells:
    names: list[str] = []
    rows: list[tuple[int, list[Any]]] = []
    for line, text in enumerate(read_text(path, expected, encoding).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise BenchmarkError(f"{path}, line {line}: not a JSON object ({error}): {text[:SHOWN]!r}") from error
        if not isinstance(entry, dict):
            raise BenchmarkError(f"{path}, line {line}: expected an object with the table's columns, found {text[:SHOWN]!r}")
        names = names or list(entry)
        if entry.keys() != set(names):
            raise BenchmarkError(f"{path}, line {line}: its keys are {', '.join(entry)}, those of line 1 {', '.join(names)}")
        rows.append((line, [entry[name] for name in names]))
    return names, rows


def _parquet(path: Path, columns: Sequence[str], expected: str) -> Cells:
    """Of other columns than these there are no values; work and memory are bounded by what the file holds."""
    if not path.exists():
        raise BenchmarkError(f"{path} is missing: it holds {expected}; {beside(path)}")
    rows: list[tuple[int, list[Any]]] = []
    try:
        file, size = pq.ParquetFile(path), path.stat().st_size
        names, held = list(file.schema_arrow.names), 0
        wanted = [name for name in names if _plain(name) in columns]
        if file.metadata.num_rows > size:
            raise BenchmarkError(f"{path}: {file.metadata.num_rows:,} rows are claimed, in {size:,} bytes")
        for batch in file.iter_batches(BATCH, columns=wanted) if wanted else ():
            if (held := held + batch.nbytes) > TEXT + UNPACKED * size:
                raise BenchmarkError(f"{path}: {size:,} bytes that hold more than {amount(TEXT + UNPACKED * size)} of text")
            values = dict(zip(batch.schema.names, (column.to_pylist() for column in batch.columns), strict=True))
            rows += [
                (len(rows) + place + 1, [values[name][place] if name in values else None for name in names])
                for place in range(len(batch))
            ]
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BenchmarkError):
            raise
        raise BenchmarkError(f"{path}: not a Parquet file that can be read ({error}); it holds {expected}") from error
    return names, rows


def _plain(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().strip('"').strip().lower()


def _kept(path: Path, names: Sequence[str], columns: Sequence[str], optional: Sequence[str], expected: str) -> dict[str, int]:
    """The place of each wanted column. A column that is nearly an optional one is a slip, not a column of the user's own."""
    plain = [_plain(name) for name in names]
    missing = [name for name in columns if name not in plain]
    if missing:
        found = ", ".join(names)[:SHOWN] or "none"
        raise BenchmarkError(f"{path}: no column {', '.join(missing)}; its columns: {found}; expected {expected}")
    wanted = [name for name in (*columns, *optional) if name in plain]
    twice = [name for name in wanted if plain.count(name) > 1]
    if twice:
        raise BenchmarkError(f"{path}: it has more than one column {twice[0]}")
    for name in set(optional) - set(plain):
        if near := get_close_matches(name, [other for other in plain if other not in columns], n=1, cutoff=0.75):
            raise BenchmarkError(f"{path}: a column {near[0]!r}: is {name!r} meant? It would be left out; rename or remove it")
    return {name: plain.index(name) for name in wanted}


def _value(path: Path, line: int, name: str, value: Any, blank: bool) -> str:
    if blank and value is None:
        return ""
    if not isinstance(value, str):
        raise BenchmarkError(f"{path}, line {line}: {name} must be text, found {json.dumps(value, default=str)[:SHOWN]}")
    if not value.strip() and not blank:
        raise BenchmarkError(f"{path}, line {line}: {name} must not be empty")
    return value.strip()
