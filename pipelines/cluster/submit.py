"""`vop submit -- train RECIPE ...`: a vop command as a Ray job, by Ray's own JobSubmissionClient.

A job runs on the cluster's head in a folder of its own, with a copy of this project (`stage`), so nothing in it may be
relative to the folder that it was submitted from (`words`): paths mean the same place on the cluster's machines.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import socket
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipelines.cluster.dashboard import SubmitError, client_of, dashboard, reach
from pipelines.cluster.jobs import end, follow
from pipelines.cluster.stage import stage
from pipelines.cluster.stop import stoppable
from pipelines.cluster.words import absolute_uri, job_command
from vop.messages import one_line
from vop.secrets import masked

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

logger = logging.getLogger(__name__)
PATIENCE = 60  # seconds that a head may take to be able to run jobs


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
        settings = [
            f"RAY_API_SERVER_ADDRESS={masked(self.address)}",
            f"RAY_AUTH_MODE={'token' if self.headers else 'disabled'}",
        ]
        command = shlex.join(map(masked, self.words))
        return " ".join([*settings, ray, "job", "submit", "--runtime-env-json", environment, "--", command])


def submit(words: list[str], address: str = "", python: str = "", wait: bool = True) -> int:
    """Submit a vop command, follow its logs, return its exit code (130 if it was stopped; Ctrl-C and SIGTERM stop it).

    words: as after `vop`; address: of Ray's dashboard; python: the interpreter on the head; wait: else it returns 0 as soon as
    the cluster has the job.
    Raises SubmitError for an address that does not answer or refuses, WordError for words that are not for a job, StageError
    for what cannot be sent, ConfigError for a recipe that is not valid.
    """
    job = make_job(words, address, python)
    logger.info("the same by Ray's own command:\n%s\n", job.line())
    client, name = client_of(job.address, job.headers), f"vop-{words[0]}-{uuid.uuid4().hex[:8]}"
    try:
        with stoppable():
            try:
                _send(client, job, name)
                if not wait:
                    logger.info("job %s at %s; vop logs %s follows it, vop stop %s ends it", name, job.address, name, name)
                    return 0
                logger.info("job %s at %s; Ctrl-C stops it", name, job.address)
                return follow(client, name)
            except KeyboardInterrupt:
                logger.info("stopping job %s", name)
                client.stop_job(name)
                end(client, name)
                raise
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        reason = one_line(error)
        raise SubmitError(f"job {name} was lost sight of ({reason}); if {job.address} has it: vop logs {name}") from None


def _send(client: JobSubmissionClient, job: Job, name: str) -> None:
    """Submit it; a head that has just begun answers for some seconds that it cannot take jobs yet."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client.submit_job(entrypoint=shlex.join(job.words), runtime_env=job.runtime_env, submission_id=name)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(1)


def make_job(words: list[str], address: str = "", python: str = "") -> Job:
    """All that can be known to be wrong is said here, before anything is sent."""
    command = job_command(words)
    address = dashboard(address)
    headers = reach(address)
    folder = stage(command.files)
    local = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1", socket.gethostname())
    entrypoint = [python or (sys.executable if local else "python"), "-m", "pipelines", *command.words]
    return Job(address, entrypoint, {"working_dir": str(folder), "env_vars": variables()}, headers)


def variables() -> dict[str, str]:
    """What a job needs of this environment: where MLflow is and how to enter, and the commit, for there is no .git."""
    from pipelines.environment import commit

    mlflow = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_") and value}
    if "MLFLOW_TRACKING_URI" in mlflow:
        mlflow["MLFLOW_TRACKING_URI"] = absolute_uri(mlflow["MLFLOW_TRACKING_URI"])
    columns = str(max(120, shutil.get_terminal_size().columns))
    # a run that is stopped has this long to say KILLED
    return {**mlflow, "VOP_COMMIT": commit(), "COLUMNS": columns, "RAY_JOB_STOP_WAIT_TIME_S": "30"}


def _is_secret(name: str, value: str) -> bool:
    return bool(re.search("PASSWORD|TOKEN|SECRET|KEY|USERNAME", name)) or masked(value) != value
