"""`vop submit -- train RECIPE ...`: a vop command as a Ray job, by Ray's own JobSubmissionClient.

A job runs on the cluster's head in a copy of this project, so nothing in it may be relative to the folder that it was
submitted from: paths are made absolute, and mean the same place on the cluster's machines.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vop.config import Experiment, load_experiment

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

PROJECT = Path(__file__).resolve().parent.parent
WITH_OVERRIDES = ("train", "tune", "prepare", "evaluate", "report", "demo")  # what they write goes where a recipe says
PRINTING = ("doctor", "methods", "throughput")
PATHS = ("tracking.output", "data.cache", "benchmark.videos", "benchmark.annotations")
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
LIMIT = 100 * 2**20  # bytes that Ray takes as a working directory
STOPPED = 130
# In git's notation; Ray leaves out what .gitignore names, too.
EXCLUDES = [
    *(".git", ".venv", "venv", ".env", ".cache", ".*_cache", "__pycache__", "*.egg-info", "build", "dist"),
    *("/docs", "/tests", "/runs", "/frames", "/data", "/checkpoints", "mlruns", "mlartifacts", "*.db", "*.db-journal"),
    *("*.mp4", "*.avi", "*.mkv", "*.webm", "*.mov", "*.zip", "*.tar", "*.tar.gz", "*.tgz", "*.parquet", "*.partial"),
    *("*.pt", "*.pth", "*.log", ".ipynb_checkpoints"),
]


class SubmitError(RuntimeError):
    """A job that cannot be submitted, or was lost sight of; the message says what to do."""


@dataclass(frozen=True)
class Job:
    """What Ray is given: the words of the command, and their environment."""

    address: str
    words: list[str]
    runtime_env: dict[str, Any]
    headers: dict[str, str]

    def line(self) -> str:
        """The `ray job submit` line that does the same. Secrets stand in it as the names of their variables."""
        variables: dict[str, str] = dict(self.runtime_env["env_vars"])
        secrets = [name for name, value in variables.items() if _is_secret(name, value)]
        shown = {**self.runtime_env, "env_vars": {**variables, **{name: f"<{name}>" for name in secrets}}}
        environment = shlex.quote(json.dumps(shown))
        for name in secrets:
            environment = environment.replace(f"<{name}>", f"'\"${name}\"'")
        beside = Path(sys.executable).parent / "ray"
        found = shutil.which("ray")
        ray = "ray" if found and Path(found).resolve() == beside.resolve() else str(beside)
        # the variable, not --address: RAY_ADDRESS would win over that
        settings = [f"RAY_API_SERVER_ADDRESS={self.address}", f"RAY_AUTH_MODE={'token' if self.headers else 'disabled'}"]
        command = re.sub(r"://[^/@\s]+@", "://***@", shlex.join(self.words))
        return " ".join([*settings, ray, "job", "submit", "--runtime-env-json", environment, "--", command])


def submit(words: list[str], address: str = "", python: str = "") -> int:
    """Submit a vop command, follow its logs, return its exit code (130 if it was stopped; Ctrl-C asks it to).

    words: as after `vop`; address: of Ray's dashboard; python: the interpreter on the head.
    Raises SubmitError for an address that does not answer or refuses, for an upload that is too large and for words that
    are not for a job, ConfigError for a recipe that is not valid.
    """
    job = make_job(words, address, python)
    print(f"the same by Ray's own command:\n{job.line()}\n", flush=True)
    os.environ["RAY_API_SERVER_ADDRESS"] = job.address  # Ray prefers these variables to what its client is given
    from ray.job_submission import JobSubmissionClient

    client, name = JobSubmissionClient(job.address, headers=job.headers), f"vop-{words[0]}-{uuid.uuid4().hex[:8]}"
    try:
        try:
            client.submit_job(entrypoint=shlex.join(job.words), runtime_env=job.runtime_env, submission_id=name)
            print(f"job {name} at {job.address}; Ctrl-C stops it", flush=True)
            return _follow(client, name)
        except KeyboardInterrupt:
            print(f"stopping job {name}", flush=True)
            client.stop_job(name)
            return _end(client, name)
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise SubmitError(f"job {name} was lost sight of ({reason}); if {job.address} has it: ray job logs {name}") from None


def make_job(words: list[str], address: str = "", python: str = "") -> Job:
    """All that can be known to be wrong is said here, before anything is sent."""
    words = job_words(words)
    address = dashboard(address)
    headers = reach(address)
    check_size(PROJECT)
    local = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1", socket.gethostname())
    entrypoint = [python or (sys.executable if local else "python"), "-m", "pipelines.cli", *words]
    return Job(address, entrypoint, {"working_dir": str(PROJECT), "excludes": EXCLUDES, "env_vars": variables()}, headers)


def job_words(words: list[str]) -> list[str]:
    """The words of a command with nothing in them that is relative to this folder."""
    command, rest = words[0], words[1:]
    if command in PRINTING:
        return words
    if command not in WITH_OVERRIDES:
        valid = ", ".join((*WITH_OVERRIDES, *PRINTING))
        raise SubmitError(f"vop {command} is not for a job, run it on this machine; a job can be: {valid}")
    if not (PROJECT / "pyproject.toml").is_file():
        raise SubmitError(
            f"{PROJECT} is no folder of the project's source, which a job takes with it: call vop from such a folder"
        )
    recipe = next((word for word in rest if word.endswith((".yaml", ".yml")) and "=" not in word), "")
    overrides = [word for word in rest if "=" in word and not word.startswith("-")]
    # an adapter brings its own experiment, which the overrides belong to
    experiment = Experiment() if command == "evaluate" else load_experiment(recipe, overrides)
    given = [
        _absolute_override(word) if word in overrides else _absolute_word(word, rest[:place]) for place, word in enumerate(rest)
    ]
    inside = [_inside(recipe) if recipe and word == recipe else word for word in given]
    return [command, *inside, *_absolute_paths(experiment, given)]


def _inside(recipe: str) -> str:
    """A recipe by its path in the project."""
    path = Path(recipe).resolve()
    if not path.is_relative_to(PROJECT):
        raise SubmitError(
            f"recipe {path} is outside of {PROJECT}, which is all that a job takes with it: copy it into experiments/"
        )
    return str(path.relative_to(PROJECT))


def _absolute_word(word: str, before: list[str]) -> str:
    """A word that is a path: an adapter's folder, or what follows --output."""
    is_path = bool(before) and before[-1] == "--output"
    if word.startswith("--output="):
        return f"--output={Path(word.removeprefix('--output=')).expanduser().resolve()}"
    return str(Path(word).expanduser().resolve()) if is_path or _is_folder(word) else word


def _is_folder(word: str) -> bool:
    return not word.startswith("-") and Path(word).expanduser().is_dir()


def _absolute_override(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={_absolute(key, value)}"


def _absolute_paths(experiment: Experiment, given: list[str]) -> list[str]:
    """Overrides for those paths of a recipe, or of the defaults, that are relative."""
    said = {word.partition("=")[0] for word in given}
    flat = {key: str(value) for key, value in experiment.flat().items() if value}
    keys = [key for key in (*PATHS, "backbone.pretrained", "tracking.uri") if key in flat and key not in said]
    return [f"{key}={_absolute(key, flat[key])}" for key in keys if _absolute(key, flat[key]) != flat[key]]


def _absolute(key: str, value: str) -> str:
    if key == "tracking.uri":
        return _absolute_uri(value)
    is_path = key in PATHS or (key == "backbone.pretrained" and Path(value).is_file())  # else it may be a name
    return str(Path(value).resolve()) if is_path and value and "://" not in value and not value.startswith("~") else value


def _absolute_uri(uri: str) -> str:
    """An MLflow address; of an SQLite file, the absolute path."""
    return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}" if uri.startswith("sqlite:///") else uri


def variables() -> dict[str, str]:
    """What a job needs of this environment: where MLflow is and how to enter, and the commit, for there is no .git."""
    from pipelines.tracking import commit

    mlflow = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_") and value}
    if "MLFLOW_TRACKING_URI" in mlflow:
        mlflow["MLFLOW_TRACKING_URI"] = _absolute_uri(mlflow["MLFLOW_TRACKING_URI"])
    columns = str(max(120, shutil.get_terminal_size().columns))
    # a run that is stopped has this long to say KILLED
    return {**mlflow, "VOP_COMMIT": commit(), "COLUMNS": columns, "RAY_JOB_STOP_WAIT_TIME_S": "30"}


def _is_secret(name: str, value: str) -> bool:
    return bool(re.search("PASSWORD|TOKEN|SECRET|KEY|USERNAME", name) or re.search("://[^/]*@", value))


def check_size(folder: Path) -> int:
    """The bytes that will be sent. Raises SubmitError, with the largest files, for more than Ray takes."""
    from ray._private.runtime_env import packaging  # its own walk, so that it is what Ray will send

    sizes: dict[Path, int] = {}

    def measure(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    packaging._dir_travel(folder, [packaging._get_excludes(folder, EXCLUDES)], measure, include_gitignore=True)
    total = sum(sizes.values())
    if total > LIMIT:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
        names = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise SubmitError(
            f"the job would take {total / 2**20:.0f} MiB of {folder} with it, Ray takes {LIMIT // 2**20}: move the largest "
            f"files out or name them in {folder}/.rayignore: {names}"
        )
    return total


def dashboard(address: str = "") -> str:
    """The address of Ray's dashboard. RAY_ADDRESS counts if it is one; it may also be the cluster's own, or `auto`."""
    cluster = os.environ.get("RAY_ADDRESS", "")
    cluster = cluster if cluster.startswith(("http://", "https://")) else ""
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS", "") or cluster or DEFAULT_ADDRESS
    address = (address if "://" in address else f"http://{address}").rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SubmitError(f"address {address}: give that of Ray's dashboard, such as {DEFAULT_ADDRESS}")
    return address


def reach(address: str) -> dict[str, str]:
    """The headers that a dashboard wants to see: none, or a token. Raises SubmitError within seconds if it has no answer."""
    parts = urlsplit(address)
    try:
        socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), 3).close()
        status = _status(address, {})
        if status in (401, 403):
            token, source = find_token()
            if not token:
                raise SubmitError(
                    f"{address} asks for a token and there is none: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to its file, "
                    "or copy the head's ~/.ray/auth_token to this machine"
                )
            headers = {"Authorization": f"Bearer {token}"}
            status = _status(address, headers)
            if status in (401, 403):
                raise SubmitError(
                    f"{address} does not take the token of {source}: it must be the one that the head was started with"
                )
        else:
            headers = {}
    except (OSError, ValueError) as error:
        raise SubmitError(
            f"no Ray dashboard answers at {address} ({error}): start a head (ray start --head), or give its address with "
            "--address or RAY_API_SERVER_ADDRESS"
        ) from None
    if status != 200:
        raise SubmitError(f"{address} answers, but not as Ray's dashboard does (HTTP status {status}): is the port right?")
    return headers


def _status(address: str, headers: dict[str, str]) -> int:
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status) if "ray_version" in json.loads(answer.read()) else 404
    except urllib.error.HTTPError as error:
        return error.code


def find_token() -> tuple[str, str]:
    """Ray's token on this machine and where it was found, in Ray's order; empty if there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    return (path.read_text(encoding="utf-8").strip(), str(path)) if path.is_file() else ("", "")


def _follow(client: JobSubmissionClient, name: str) -> int:
    async def show() -> None:
        async for lines in client.tail_job_logs(name):
            print(lines, end="", flush=True)

    asyncio.run(show())
    return _end(client, name)


def _end(client: JobSubmissionClient, name: str) -> int:
    """Wait for the end of a job, say how it ended, return its exit code."""
    while not (info := client.get_job_info(name)).status.is_terminal():
        time.sleep(0.5)
    print(f"job {name}: {info.status.value}{'' if info.status.value != 'FAILED' else f': {info.message}'}", flush=True)
    if info.status.value == "STOPPED":
        return STOPPED
    return 0 if info.status.value == "SUCCEEDED" else max(1, info.driver_exit_code or 1)
