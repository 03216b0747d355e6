"""The command line: what it says of itself, what it checks before it imports, where errors go."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from typer.testing import CliRunner, Result

from pipelines.cli import GROUPS, app
from pipelines.data.prepare import prepare
from pipelines.search.search import search
from tests.support.recipe import recipe
from tests.support.stores import decode_here
from vop.config import Section, kinds, load_experiment
from vop.config.describe import explained, keys
from vop.config.experiment import BASES, Experiment
from vop.config.kinds import config_of
from vop.model.adapter import adapter_of, save_adapter
from vop.model.architecture import image_size
from vop.model.retrieval import build_model

HEAVY = ("torch", "ray", "mlflow", "open_clip")
IN_TURN = """
import json, sys
from typer.testing import CliRunner
from pipelines.cli import app
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    print(json.dumps([done.exit_code, done.output, list(sys.modules)]), flush=True)
"""


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env=environment)


def separately(*commands: list[str]) -> list[tuple[int, str, set[str]]]:
    """Commands one after another in a process of their own: exit code, output, the modules that are imported by then."""
    done = subprocess.run([sys.executable, "-c", IN_TURN, json.dumps(commands)], capture_output=True, text=True, check=True)
    return [(code, output, set(modules)) for code, output, modules in map(json.loads, done.stdout.splitlines())]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_in_its_group(flag: str) -> None:
    done = run(flag, COLUMNS="100")
    assert done.exit_code == 0
    parts = re.split(r"─ (\w+) ─", done.output)
    listed = dict(zip(parts[1::2], parts[2::2], strict=True))
    for group, commands in GROUPS.items():
        for command in commands:
            assert re.search(rf"^│ {command.__name__} ", listed[group], re.M), f"{command.__name__} is not in {group}"
            assert run(command.__name__, flag).exit_code == 0
    assert "--install-completion" in listed["Options"]


def test_version() -> None:
    done = run("--version")
    assert done.exit_code == 0 and done.output.startswith(f"vop {version('vop')}, ")


def test_without_a_command_there_is_help() -> None:
    assert run().exit_code == 0 and "demo" in run().output


def test_errors_go_to_standard_error_alone() -> None:
    done = run("train", "nothing")
    assert done.exit_code == 2 and not done.stdout
    assert done.stderr.startswith("error recipe nothing: there is no such file and no packaged recipe")


def test_the_shell_completes_recipes() -> None:
    environment = {**os.environ, "_VOP_COMPLETE": "complete_bash", "COMP_WORDS": "vop train ms", "COMP_CWORD": "2"}
    code = "from pipelines.cli import app; app(prog_name='vop')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["msrvtt-7k", "msrvtt-9k"]


def test_arguments_are_checked_before_heavy_imports() -> None:
    commands = {
        "--help": 0,
        "--version": 0,
        "search adapter /no/folder text": 2,
        "search /no/adapter / text": 2,
        "index /no/folder --to /no/index": 2,
        "index / --to /dev/null": 2,
        "search /no/index text --json": 2,
        "train toy training.epoch=3": 2,
        "train toy video_prompt.lenght=3": 2,
        "train nothing": 2,
        "prepare": 2,
        "prepare nothing": 2,
        "evaluate /no/adapter": 2,
        "retrieved /no/adapter": 2,
        "report tracking.output=/no/runs": 2,
        "ui tracking.output=/no/runs": 2,
        "clean tracking.output=/no/runs data.cache=/no/cache": 0,
        "tune toy": 2,
        "tune toy --space nothing": 2,
        "tune toy --space prompt_length --sampler nothing": 2,
        "doctor toy data.cach=x": 2,
        "config toy video_prompt.length=4": 0,
        "config training": 0,
        "verify nothing": 2,
    }
    found = separately(*map(str.split, commands))
    for (command, code), (exit_code, output, modules) in zip(commands.items(), found, strict=True):
        assert exit_code == code, (command, output)
        assert not modules & set(HEAVY), command


@pytest.mark.usefixtures("slow")
def test_a_store_that_lacks_nothing_and_a_plan_need_no_ray_and_no_mlflow(videos: Path, tmp_path: Path) -> None:
    """Prepared, the store is only read, without torch too; a search embeds its texts and imports nothing else."""
    tree = recipe(videos, tmp_path)
    adapter = save_adapter(adapter_of(build_model(tree), tree), tmp_path / "adapter")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree.tree()), encoding="utf-8")
    with patch("pipelines.data.decode.decode", decode_here):
        prepare(tree, image_size(tree.backbone))
        search(adapter, str(videos), ["a dog"], overrides=[f"data.cache={tree.data.cache}"])
    words = (
        ["prepare", str(tmp_path / "mine.yaml")],
        ["check", str(tmp_path / "mine.yaml")],
        ["search", str(adapter), str(videos), "a dog", f"data.cache={tree.data.cache}"],
    )
    for command, light, (code, output, modules) in zip(words, (True, False, False), separately(*words), strict=True):
        assert code == 0, output
        assert not modules & {"ray", "mlflow", *(["torch", "open_clip"] if light else [])}, command


def test_every_key_says_what_it_means() -> None:
    for section, field in Experiment.model_fields.items():
        if not isinstance(field.default, Section):
            assert field.description, section
            continue
        own = (config_of(section, name) for name in kinds(section)) if section in BASES else ()
        for config in (type(field.default), *filter(None, own)):
            for name, part in config.model_fields.items():
                assert part.description, f"{config.__module__}: {section}.{name}"


def test_config_prints_every_key_with_type_default_and_meaning() -> None:
    output = run("config").output
    for key in keys():
        assert f"{key.key}  {key.type}, default {key.default}" in output and key.meaning in output
    assert set(load_experiment("").flat()) <= {key.key for key in keys()}
    assert "video_prompt.module  one of bilstm, lstm, transformer, default bilstm, of video_prompt.name=context" in output


def test_config_of_a_key_and_of_a_section() -> None:
    assert run("config", "training.warmup").output.splitlines() == [
        "training.warmup  number >= 0 < 1, default 0.1",
        "    share of all steps",
    ]
    section = run("config", "frames").output
    assert "frames.count" in section and "frames.fps" in section and "training." not in section
    wrong = run("config", "training.epoch")
    assert wrong.exit_code == 2 and "training.epoch: unknown key; valid: training.epochs, " in wrong.stderr


def test_config_of_a_recipe_is_a_recipe_with_the_differences_marked(tmp_path: Path) -> None:
    changes = ["video_prompt.name=context", "video_prompt.module=lstm", "name=a (b)", "benchmark.videos='/a b # [c]: é'"]
    done = run("config", "toy", *changes)
    assert done.exit_code == 0
    (tmp_path / "mine.yaml").write_text(done.output, encoding="utf-8")
    assert load_experiment(tmp_path / "mine.yaml") == load_experiment("toy", changes)
    marked = {line.split(":")[0].strip() for line in done.output.splitlines() if "# default: " in line}
    assert {"module", "epochs", "batch_size", "videos"} <= marked and not {"role", "warmup", "seed"} & marked
    assert "  module: lstm  # default: bilstm" in done.output.splitlines()
    assert yaml.safe_load(explained(Experiment())) == Experiment().tree() and "#" not in explained(Experiment())


@pytest.mark.usefixtures("slow")
def test_a_dry_run_says_what_would_be_done_and_does_nothing(videos: Path, tmp_path: Path) -> None:
    changes = [f"benchmark.videos='{videos}'", "benchmark.name=folder", f"data.cache={tmp_path / 'cache'}", "frames.count=4"]
    changes += [f"tracking.output={tmp_path / 'runs'}", "training.batch_size=8"]
    done = run("train", "toy", "--dry-run", *changes)
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["train", "6", "6", "0"] in lines and ["val", "2", "2", "0"] in lines and ["test", "4", "4", "0"] in lines
    assert "2 steps an epoch, 6 epochs, 12,288 trainable parameters" in done.stdout
    assert "  count: 4  # default: 12" in done.stdout.splitlines()
    assert not (tmp_path / "cache").exists() and not (tmp_path / "runs").exists()


def test_a_port_in_use_is_an_error_with_another(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("ui", f"tracking.output={tmp_path}", "--port", str(port))
    assert done.exit_code == 2
    other = re.search(rf"port {port} of 127.0.0.1 cannot be used .*; a free one: --port (\d+)", done.stderr)
    assert other and int(other[1]) != port


def test_no_runs_yet_is_said(tmp_path: Path) -> None:
    done = run("ui", f"tracking.output={tmp_path}")
    assert done.exit_code == 2 and "there are no runs yet" in done.stderr


@pytest.mark.usefixtures("slow")
def test_the_server_is_bound_to_this_machine_and_has_no_job_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda program, command, environment: started.append((command, environment)))
    done = run("ui", f"tracking.output={tmp_path}", "--port", "5999", "tracking.experiment=mine")
    assert done.exit_code == 0 and "http://127.0.0.1:5999" in done.output and "experiment mine" in done.output
    ((command, environment),) = started
    assert command[command.index("--host") + 1] == "127.0.0.1" and command[command.index("--port") + 1] == "5999"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_retrieved_takes_overrides(tmp_path: Path) -> None:
    done = run("retrieved", "0123", f"tracking.output={tmp_path}")
    assert done.exit_code == 2 and f"there are no runs yet, sqlite:///{tmp_path}/mlflow.db does not exist" in done.stderr
    done = run("retrieved", "0123", "4567", f"tracking.output={tmp_path}")
    assert done.exit_code == 2 and "there are no runs yet" in done.stderr


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(("environment", "styled"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_escape_sequences_only_where_they_are_wanted(environment: dict[str, str], styled: bool) -> None:
    """On a terminal (a pseudo-terminal); a pipe gets none either way, as the other tests see."""
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    for arguments in (["--help"], ["train", "nothing"], ["config", "frames"]):
        terminal, child = pty.openpty()
        command = [sys.executable, "-m", "pipelines", *arguments]
        process = subprocess.Popen(command, stdout=child, stderr=child, env={**clean, "TERM": "xterm", **environment})
        os.close(child)
        output = b""
        while True:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # Linux says so when the other side is closed
                break
            if not part:
                break
            output += part
        process.wait()
        os.close(terminal)
        assert (b"\x1b" in output) == styled, output


@pytest.mark.usefixtures("slow")
def test_a_reader_that_has_enough_is_no_error() -> None:
    """As in `vop config training | head -1`; here it has had enough from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipelines", "config", "training"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
