"""The one reader of tables: what is certain is read, what would lose a word or a row is an error with file and line."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vop.benchmarks import BenchmarkError, Caption, Record, read_json, read_table
from vop.config import kind, load_experiment

ROWS = [(2, {"video": "a.mp4", "caption": "a dog, asleep"}), (3, {"video": "b.mp4", "caption": 'he says "hi"'})]
CSV = 'video,caption\na.mp4,"a dog, asleep"\nb.mp4,"he says ""hi"""\n'


def written(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeff" + CSV),
        ("t.csv", CSV.replace("\n", "\r\n")),
        ("t.csv", CSV.replace("\n", "\r")),
        ("t.csv", CSV + "\n\n"),
        ("t.csv", "Video, CAPTION\n" + CSV.partition("\n")[2]),
        ("t.csv", 'video;caption\na.mp4;a dog, asleep\nb.mp4;"he says ""hi"""\n'),
        ("t.tsv", 'video\tcaption\na.mp4\ta dog, asleep\nb.mp4\the says "hi"\n'),
        ("t.csv", 'id,caption,video,note\n1,"a dog, asleep",a.mp4,\n2,"he says ""hi""",b.mp4,x\n'),
    ],
)
def test_what_is_certain_is_read(tmp_path: Path, name: str, data: str) -> None:
    assert read_table(written(tmp_path, name, data), ("video", "caption"), ("split",)) == ROWS


def test_other_encodings_are_read_if_they_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", "video,caption\na.mp4,l’été à la mer\n".encode("cp1252"))
    with pytest.raises(BenchmarkError, match=r"t\.csv, line 2: not UTF-8 text.*benchmark\.encoding=latin-1"):
        read_table(path, ("video", "caption"))
    assert read_table(path, ("video", "caption"), encoding="cp1252") == [(2, {"video": "a.mp4", "caption": "l’été à la mer"})]
    path = written(tmp_path, "t.csv", "video,caption\na.mp4,été\n".encode("utf-16"))
    with pytest.raises(BenchmarkError, match=r"t\.csv: not UTF-8 text but UTF-16.*benchmark\.encoding=utf-16"):
        read_table(path, ("video", "caption"))
    assert read_table(path, ("video", "caption"), encoding="utf-16")[0][1]["caption"] == "été"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("video,caption\na.mp4,a dog, asleep\n", "line 2: 3 fields between commas, 2 expected"),
        ("video,caption\na.mp4,x\nb.mp4\n", "line 3: 1 fields between commas, 2 expected"),
        ('video,caption\na.mp4,"a dog\nb.mp4,a cat\nc.mp4,a cow\n', "line 2: .*quote"),
        ('video,caption\na.mp4,"a dog\nb.mp4,a cat"\nc.mp4,a cow\n', "line 2: a line ends inside of quotes"),
        ('video,caption\na.mp4,"a "dog" barks"\n', "line 2: .*quote"),
        ("video,caption\na.mp4,a\0dog\n", "line 2: a NUL character"),
        ("video,caption\na.mp4,  \n", "line 2: caption must not be empty"),
        ("video,caption,Caption\na.mp4,x,y\n", "more than one column caption"),
        ("video,caption,splits\na.mp4,x,train\n", "a column 'splits': is 'split' meant"),
        ("a.mp4,a dog\n", "no column video, caption; its columns: a.mp4, a dog"),
        ("", "no column video, caption"),
    ],
)
def test_what_would_lose_a_word_or_a_row_is_refused(tmp_path: Path, data: str, words: str) -> None:
    with pytest.raises(BenchmarkError, match=rf"{re.escape(str(tmp_path))}/t\.csv.*{words}"):
        read_table(written(tmp_path, "t.csv", data), ("video", "caption"), ("split",))


def test_json_lines_and_parquet_have_the_same_columns(tmp_path: Path) -> None:
    rows = [row for _, row in ROWS]
    path = written(tmp_path, "t.jsonl", "\n".join(json.dumps({**row, "extra": None}) for row in rows))
    assert [row for _, row in read_table(path, ("video", "caption"))] == rows
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert [row for _, row in read_table(tmp_path / "t.parquet", ("video", "caption"))] == rows


def test_a_parquet_that_claims_much_is_refused(tmp_path: Path) -> None:
    names = pa.array(["a.mp4"] * 10**5)
    pq.write_table(pa.table({"video": names, "caption": names}), tmp_path / "rows.parquet", compression="zstd")
    with pytest.raises(BenchmarkError, match=r"rows\.parquet: 100,000 rows are claimed, in [\d,]+ bytes"):
        read_table(tmp_path / "rows.parquet", ("video", "caption"))
    rows = {"video": [f"{n}.mp4" for n in range(200)], "caption": ["x" * 10**6] * 200, "note": [None] * 200}
    pq.write_table(pa.table(rows), tmp_path / "text.parquet", compression="zstd")
    with pytest.raises(BenchmarkError, match=r"text\.parquet: .* bytes that hold more than .* MB of text"):
        read_table(tmp_path / "text.parquet", ("video", "caption"))
    assert len(read_table(tmp_path / "text.parquet", ("video",))) == 200, "of other columns nothing is read"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"video": "b", "caption": null}', "caption must be text, found null"),
        ('{"video": "b", "caption": 7}', "caption must be text, found 7"),
        ('{"video": "b", "caption": ["x"]}', "caption must be text"),
        ('{"video": "b", "caption": " "}', "caption must not be empty"),
        ('{"video": "b"}', "its keys are video"),
        ('{"video": "b", "caption": "x", "caption": "y"}', "the key 'caption' is there twice"),
        ('["b", "x"]', "expected an object"),
        ("[" * 100_000, "not a JSON object"),
        ('{"video": "b", "caption": ' + "1" * 5000 + "}", "not a JSON object"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = written(tmp_path, "t.jsonl", '{"video": "a", "caption": "x"}\n' + line)
    with pytest.raises(BenchmarkError, match=rf"t\.jsonl, line 2: .*{words}"):
        read_table(path, ("video", "caption"))


@pytest.mark.parametrize("caption", [None, 7, "", "  ", ["x"], True])
def test_a_caption_in_json_is_text(tmp_path: Path, caption: object) -> None:
    path = written(tmp_path, "t.json", json.dumps({"texts": ["x", caption]}))
    with pytest.raises(BenchmarkError, match=r"t\.json, texts\[1\]: .*expected the captions"):
        read_json(path, "the captions", dict[str, list[Caption]])


@pytest.mark.parametrize("data", ["[" * 100_000, '{"a": 1, "a": 2}', "{", "1" * 5000, b"\xff{}"])
def test_json_that_is_none(tmp_path: Path, data: bytes | str) -> None:
    with pytest.raises(BenchmarkError, match=r"t\.json"):
        read_json(written(tmp_path, "t.json", data), "the captions", dict[str, list[Caption]])


def own(folder: Path) -> list[Record]:
    config = load_experiment({"benchmark": {"name": "folder", "videos": str(folder)}}).benchmark
    records: list[Record] = kind("benchmark", "folder").records(config)
    return records


def test_a_video_has_one_name(tmp_path: Path) -> None:
    written(tmp_path, "captions.csv", "video,caption,split\na.mp4,x,train\n./a.mp4,y,test\nb.mp4,z,val\n")
    with pytest.raises(BenchmarkError, match=r"line 3: a\.mp4 is in two splits"):
        own(tmp_path)
    for name in ("../a.mp4", "/etc/passwd", "x/../../a.mp4"):
        written(tmp_path, "captions.csv", f"video,caption\n{name},x\n")
        with pytest.raises(BenchmarkError, match="below the directory"):
            own(tmp_path)


def test_two_tables_are_one_too_many(tmp_path: Path) -> None:
    written(tmp_path, "captions.csv", CSV)
    written(tmp_path, "captions.tsv", CSV)
    with pytest.raises(BenchmarkError, match=r"captions\.csv, captions\.tsv: say which"):
        own(tmp_path)


@pytest.mark.usefixtures("slow")
@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.lists(st.sampled_from([*',;"\n\r\t{}[]:ab\0\ufeffé', "video", "caption", "split", "train"])).map(
            lambda parts: ("video,caption\n" + "".join(parts)).encode()
        ),
    ),
    st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet", ".txt", ""]),
)
def test_any_bytes_give_rows_or_an_error_of_ours(data: bytes, extension: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), f"t{extension}", data)
        try:
            rows = read_table(path, ("video", "caption"), ("split",))
        except BenchmarkError as error:
            assert str(path) in str(error)
        else:
            assert all(row["video"] and row["caption"] for _, row in rows)
