"""The contract of benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vop.annotations.records import SPLITS, BenchmarkError, Example, Protocol, Record
from vop.config import BenchmarkConfig, kind, load_experiment


class BenchmarkContract:
    """What a benchmark keeps to: a file of `vop.benchmarks`, tested by its name (`benchmark.name`)."""

    def test_its_file_has_what_a_benchmark_has(self, name: str, tmp_path: Path) -> None:
        """A docstring, `records`; if its numbers are published, `protocol` with a number for each split, and `EXAMPLE`."""
        module = kind("benchmark", name)
        assert module.__doc__, "say in the file's docstring which files it reads"
        assert callable(module.records)
        assert issubclass(getattr(module, "Config", BenchmarkConfig), BenchmarkConfig)
        if hasattr(module, "protocol"):
            protocol: Protocol = module.protocol(_config(name, tmp_path))
            assert {*protocol.videos} | {*protocol.captions} == {*SPLITS}, "each split has a number to hold a dataset to"
            assert all(count > 0 for count in (*protocol.videos.values(), *protocol.captions.values()))
            assert protocol.source and protocol.frames > 0 and protocol.tokens > 0
            assert isinstance(getattr(module, "EXAMPLE", None), Example), "give its files, tiny: EXAMPLE = Example({...})"

    def test_it_says_what_is_missing(self, name: str, tmp_path: Path) -> None:
        """No folder, or one without its files, is a BenchmarkError that names it. The toy benchmark writes its own."""
        if name == "toy":
            return
        module = kind("benchmark", name)
        assert "benchmark.videos" in _refusal(lambda: module.records(load_experiment({"benchmark": {"name": name}}).benchmark))
        assert str(tmp_path) in _refusal(lambda: module.records(_config(name, tmp_path)))

    def test_it_reads_its_example(self, name: str, tmp_path: Path) -> None:
        """Records of all splits, below the folder of the videos; the same for other line ends and a byte order mark."""
        module = kind("benchmark", name)
        if (example := getattr(module, "EXAMPLE", None)) is None:
            return
        records = _read_example(name, example, tmp_path / "lf", "\n", "")
        assert {record.split for record in records} == {*SPLITS}
        assert len({record.video_id for record in records}) == len(records)
        window = module.protocol(_config(name, tmp_path)).window if hasattr(module, "protocol") else None
        for record in records:
            assert record.captions and all(isinstance(caption, str) and caption.strip() for caption in record.captions)
            assert Path(record.path).is_relative_to(tmp_path / "lf" / "videos")
            assert record.window == window
        if hasattr(module, "protocol") and module.protocol(_config(name, tmp_path)).text != "each caption":
            assert all(len(record.captions) == 1 for record in records)
        told = [(record.video_id, record.captions, record.split) for record in records]
        for folder, end, start in (("crlf", "\r\n", ""), ("bom", "\n", "\ufeff")):
            again = _read_example(name, example, tmp_path / folder, end, start)
            assert [(record.video_id, record.captions, record.split) for record in again] == told, folder

    def test_every_file_is_needed_by_name(self, name: str, tmp_path: Path) -> None:
        """One that is missing, or no text, is a BenchmarkError that names it."""
        module = kind("benchmark", name)
        if (example := getattr(module, "EXAMPLE", None)) is None:
            return
        for file in {*example.files} - {*example.optional}:
            config = _write_example(name, example, tmp_path, "\n", "")
            path = tmp_path / "annotations" / file
            path.unlink()
            message = _refusal(lambda config=config: module.records(config))  # type: ignore[misc]
            assert f"{path}" in message and "is missing" in message, message
            path.write_bytes(b"\xff\xfe nothing")
            assert "UTF-8" in _refusal(lambda config=config: module.records(config))  # type: ignore[misc]

    def test_its_test_needs_no_files_that_are_optional(self, name: str, tmp_path: Path) -> None:
        """Evaluation alone: without them, the same test videos."""
        module = kind("benchmark", name)
        if (example := getattr(module, "EXAMPLE", None)) is None:
            return
        whole = _read_example(name, example, tmp_path, "\n", "")
        for file in example.optional:
            (tmp_path / "annotations" / file).unlink()
        bare = module.records(_config(name, tmp_path, **example.fields))
        assert [record for record in bare if record.split == "test"] == [record for record in whole if record.split == "test"]


def _config(name: str, root: Path, **fields: Any) -> BenchmarkConfig:
    for folder in ("videos", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    places = {"videos": str(root / "videos"), "annotations": str(root / "annotations")}
    return load_experiment({"benchmark": {"name": name, **places, **fields}}).benchmark


def _write_example(name: str, example: Example, root: Path, end: str, start: str) -> BenchmarkConfig:
    config = _config(name, root, **example.fields)
    for file, text in example.files.items():
        (root / "annotations" / file).write_bytes((start + text.replace("\n", end)).encode())
    return config


def _read_example(name: str, example: Example, root: Path, end: str, start: str) -> list[Record]:
    records: list[Record] = kind("benchmark", name).records(_write_example(name, example, root, end, start))
    return records


def _refusal(read: Callable[[], object]) -> str:
    """The message of the BenchmarkError that reading must end with."""
    try:
        read()
    except BenchmarkError as error:
        return str(error)
    raise AssertionError("it read what it cannot have read: raise BenchmarkError, as find_videos, folders and read_text do")
