"""Results as data: runs of MLflow <-> JSON files, one per sweep or run; the tables in the docs are made from them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.environment import environment
from pipelines.report.cells import HEADLINE, PROTOCOL, TUNED
from pipelines.tracking import PARENT, SWEEP, LoggedRun, logged_runs
from vop.config import ConfigError, TrackingConfig, params_of, validated

SCORES = re.compile(  # what the tables use: of the corrected scores only R@1
    r"trainable_parameters|test/(pair_accuracy|(dsl|qbnorm)/(t2v|v2t)/R1|(?!dsl|qbnorm)([^/]+/)?(t2v|v2t)/\w+)"
)
KINDS = ("benchmark", "video_prompt", "tuning", "head")
PLACES = ("benchmark.videos", "benchmark.annotations")
TAGS = ("commit", "cpu", "python", "selected_on")


def export_results(tracking: TrackingConfig, benchmark: str, folder: Path) -> list[Path]:
    """Write the finished runs on `benchmark`, each sweep's in a file of its name; returns the files.

    A run of changed or unknown source is left out: its number could not be made again. ConfigError if no run is left.
    """
    runs = logged_runs(tracking)
    sweeps = {run.id: run.tags[SWEEP] for run in runs if SWEEP in run.tags}
    groups: dict[str, list[LoggedRun]] = defaultdict(list)
    for run in runs:
        done = run.status == "FINISHED" and HEADLINE in run.metrics and run.params.get("benchmark.name") == benchmark
        if done and re.fullmatch("[0-9a-f]{7,40}", run.tags.get("commit", "")):
            groups[sweeps.get(run.tags.get(PARENT, ""), run.name)].append(run)
    if not groups:
        raise ConfigError(f"no finished run on benchmark {benchmark!r} was made by committed source: nothing to export")
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"{_file_name(name)}.json", group) for name, group in groups.items()]


def read_results(folder: Path) -> list[LoggedRun]:
    """The runs of all files of a folder; a parameter that is the default is left out of `params`."""
    return [_run(entry) for file in sorted(folder.glob("*.json")) for entry in json.loads(file.read_text(encoding="utf-8"))]


def write_rows(file: Path, command: str, rows: Iterable[dict[str, Any]]) -> None:
    """What a measurement found, as JSON: the command, the source, machine and libraries, and one line per row."""
    about = json.dumps({"command": command, **environment()}, indent=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{about[:-2]},\n "rows": {_lines(rows)}}}\n', encoding="utf-8")


def _write(file: Path, runs: Iterable[LoggedRun]) -> Path:
    file.write_text(_lines(_entry(run) for run in runs) + "\n", encoding="utf-8")
    return file


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"


def _entry(run: LoggedRun) -> dict[str, Any]:
    return {
        "run": run.id,
        "name": run.name,
        "started": run.started,
        **{tag: run.tags[tag] for tag in TAGS if tag in run.tags},
        "versions": {tag.partition(".")[2]: text for tag, text in sorted(run.tags.items()) if tag.startswith("version.")},
        "params": _differences(run.params),
        "validation": run.validation,
        "metrics": {name: run.metrics[name] for name in sorted(run.metrics) if SCORES.fullmatch(name)},
    }


def _differences(params: dict[str, str]) -> dict[str, str]:
    """What decides a result and is not the default; the names of kinds always, the places of files never."""
    names = {section: {"name": params[f"{section}.name"]} for section in KINDS if f"{section}.name" in params}
    default = params_of(validated(names))
    wanted = {key: text for key, text in params.items() if key.startswith((*TUNED, *PROTOCOL, "seed")) and key not in PLACES}
    return {key: text for key, text in wanted.items() if text != default.get(key) or key.endswith(".name")} | {
        "seed": params["seed"]
    }


def _run(entry: dict[str, Any]) -> LoggedRun:
    tags = {tag: entry[tag] for tag in TAGS if tag in entry}
    about = (entry["run"], entry["name"], "FINISHED", entry["started"])
    return LoggedRun(*about, entry["params"], entry["metrics"], tags, entry["validation"])


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)
