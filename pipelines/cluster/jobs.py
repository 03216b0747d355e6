"""The jobs of a cluster: those that there are, their logs, their end, by Ray's own JobSubmissionClient."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.cluster.dashboard import SubmitError, client_of, dashboard, reach
from vop.messages import one_line
from vop.secrets import masked

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

logger = logging.getLogger(__name__)
STOPPED = 130
LOGS = ", last available logs"  # with which Ray begins to say again in one line what was followed


@dataclass(frozen=True)
class Listed:
    """A job of a cluster: its name, status (PENDING, RUNNING, SUCCEEDED, ...), start in ms, seconds so far, vop command."""

    name: str
    status: str
    started: int
    seconds: float
    command: str


def jobs(address: str = "") -> list[Listed]:
    """The jobs that were submitted to a cluster, oldest first; address: of Ray's dashboard.

    Raises SubmitError for an address that does not answer or refuses.
    """
    client = _client(address)
    with _talking(client.get_address()):
        return [_listed(job) for job in _submitted(client)]


def logs(job: str, address: str = "") -> int:
    """Print a job's logs to its end; returns its exit code. Raises SubmitError, as `jobs`, and where no one job has the name.

    job: its name, or a part of it that no other job's has.
    """
    client = _client(address)
    with _talking(client.get_address()):
        return follow(client, _named(client, job))


def stop(job: str, address: str = "") -> None:
    """Stop a job and wait for its end. Raises SubmitError, as `logs`."""
    client = _client(address)
    with _talking(client.get_address()):
        name = _named(client, job)
        if client.get_job_status(name).is_terminal():
            logger.info("job %s has ended before", name)
        else:
            logger.info("stopping job %s", name)
            client.stop_job(name)
        end(client, name)


def follow(client: JobSubmissionClient, name: str) -> int:
    """Print a job's logs to its end; returns its exit code."""

    async def show() -> None:
        rest = ""  # of a line whose end is still to come
        async for part in client.tail_job_logs(name):
            *lines, rest = (rest + part).split("\n")
            for line in lines:
                logger.info("%s", line)
        if rest:
            logger.info("%s", rest)

    asyncio.run(show())
    return end(client, name)


def end(client: JobSubmissionClient, name: str) -> int:
    """Wait for the end of a job, say how it ended, return its exit code."""
    while not (info := client.get_job_info(name)).status.is_terminal():
        time.sleep(0.5)
    why = (info.message or "").partition(LOGS)[0]
    logger.info("job %s: %s%s", name, info.status.value, f": {why}" if info.status.value == "FAILED" else "")
    if info.status.value == "STOPPED":
        return STOPPED
    return 0 if info.status.value == "SUCCEEDED" else max(1, info.driver_exit_code or 1)


def _client(address: str) -> JobSubmissionClient:
    address = dashboard(address)
    return client_of(address, reach(address))


@contextmanager
def _talking(address: str) -> Iterator[None]:
    """A cluster that goes away while it is talked to is one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
        if isinstance(error, SubmitError):
            raise
        raise SubmitError(f"{address} does not answer any more: {one_line(error)}") from None


def _submitted(client: JobSubmissionClient) -> list[JobDetails]:
    """Oldest first. A driver that was started by hand is no job of anybody's."""
    return sorted((job for job in client.list_jobs() if job.submission_id), key=lambda job: job.start_time or 0)


def _named(client: JobSubmissionClient, part: str) -> str:
    names = [str(job.submission_id) for job in _submitted(client)]
    found = [name for name in names if name == part] or [name for name in names if part and part in name]
    if len(found) != 1:
        which = f"{len(found)} jobs have that in their name" if found else "there is no such job"
        raise SubmitError(f"job {part}: {which}; the cluster has {', '.join((found or names)[-10:]) or 'none'}")
    return found[0]


def _listed(job: JobDetails) -> Listed:
    started = job.start_time or 0
    ended = job.end_time or int(time.time() * 1000)
    words = shlex.split(job.entrypoint)
    command = shlex.join(words[words.index("pipelines") + 1 :]) if "pipelines" in words else job.entrypoint
    return Listed(str(job.submission_id), job.status.value, started, max(0, ended - started) / 1000, masked(command))
