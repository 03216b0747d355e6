"""Training on workers of Ray Train, anywhere in the cluster: started, started again after a death, stopped, explained."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray.train.torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback

from pipelines.cluster.connect import labelled
from pipelines.data.streaming import decoding_cpus
from pipelines.output import Output, storage
from pipelines.train.checkpoint import epochs_of, trained
from pipelines.train.elastic import ElasticPolicy
from pipelines.train.on_disk import ERRORS
from pipelines.train.training import TrainingError, WorkerError
from pipelines.train.worker import LOSS, Job, log_epoch, train_loop
from vop.errors import VopError
from vop.model.adapter import Adapter
from vop.places import PlaceError
from vop.secrets import masked

logger = logging.getLogger(__name__)
LINE = 500  # characters of an error that stand in a message


class Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
    """Ray's trainer, which leaves the signals to this program: its own handler of Ctrl-C would stay after the training."""

    controller: Any = None
    spare_cpus = 0.0  # that workers of an elastic training leave free

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            arguments["scaling_policy"] = ElasticPolicy(self.scaling_config, self.spare_cpus)
        return super()._initialize_and_run_controller(**arguments)

    def _register_sigint_handler(self, controller: Any) -> None:
        self.controller = controller

    def abort(self) -> None:
        """End the workers."""
        if self.controller is not None:
            with suppress(Exception):  # an actor that exits answers with an error
                ray.get(self.controller.abort.remote(), timeout=10)


def train_on_workers(job: Job, use_gpu: bool, trial: bool) -> Adapter:
    """The best adapter on validation; a training whose worker died goes on from its last checkpoint, `max_failures` times.

    Raises what a worker says to the user, else WorkerError; the full text of an error is then in a file.
    """
    folder, experiment, output = job.checkpoints, job.experiment, Output.of(job.experiment.tracking)
    where = labelled("train")  # also when the last such node is gone: another one may come
    for restarts in range(experiment.resources.max_failures + 1):
        trainer = _trainer(job, use_gpu, trial, where)
        try:
            trainer.fit()
            break
        except KeyboardInterrupt:
            trainer.abort()
            raise
        except (TrainingFailedError, RayError) as error:
            explained = explain(error, folder)
            with suppress(PlaceError):  # an address that does not answer
                output.push(folder / ERRORS)
            if not isinstance(explained, WorkerError) or restarts == experiment.resources.max_failures:
                raise explained from error
            output.pull(folder)
            done, left = len(epochs_of(folder)), experiment.resources.max_failures - restarts
            logger.warning("%s; going on after epoch %d (restarts left: %d)", explained.args[0], done, left - 1)
    output.pull(folder)
    if output.is_copy:
        _log_the_rest(job)
    adapter = trained(folder, experiment)
    if adapter is None:
        raise TrainingError(f"{folder}: there is no whole checkpoint of the last epoch")
    return adapter


def _log_the_rest(job: Job) -> None:
    """Epochs that a worker could not log: they wait on its machine, in a copy that nobody else sees."""
    logged = job.run.steps(LOSS)
    for number, metrics in enumerate(epochs_of(job.checkpoints), 1):
        log_epoch(job.run, metrics, number, logged)


def _trainer(job: Job, use_gpu: bool, trial: bool, where: dict[str, Any]) -> Trainer:
    resources, output = job.experiment.resources, Output.of(job.experiment.tracking)
    # trials of a sweep share the cluster among them
    number = resources.fewest if trial or resources.fewest == resources.most else (resources.fewest, resources.most)
    trainer = Trainer(
        train_loop,
        train_loop_config=job.tree(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=number,
            elastic_resize_monitor_interval_s=0,  # at the end of each epoch
            use_gpu=use_gpu,
            resources_per_worker={"CPU": job.cpus, **({"GPU": resources.gpus_per_worker} if use_gpu else {})},
            **where,
        ),
        run_config=ray.train.RunConfig(
            name=job.checkpoints.name,
            **storage(output, job.checkpoints.parent),  # Ray refuses a folder that the workers do not share
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            callbacks=[TuneReportCallback()] if trial else [],
        ),
    )
    trainer.spare_cpus = decoding_cpus(job.experiment)
    return trainer


def explain(error: Exception, folder: Path) -> VopError:
    """What a worker says to the user, if one does (such as weights that are not on its machine), else the first line of it."""
    failures: list[BaseException] = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    failures += [error.controller_failure] if isinstance(error, ControllerError) else []
    failures = [failure.cause if isinstance(failure, RayTaskError) else failure for failure in (*failures, error)]
    if own := next((failure for failure in failures if isinstance(failure, VopError)), None):
        return own
    # of a worker that died the others say only that they have lost it
    cause = next((one for one in failures if isinstance(one, RayActorError | OutOfMemoryError)), failures[0])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).splitlines()
    first = next((line.strip() for line in lines if line.strip()), "")
    where = ""
    with suppress(OSError):  # of a full disk: the first line is better than none
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERRORS).write_text(masked(f"{error}\n"), encoding="utf-8", errors="backslashreplace")
        where = f"; the full text is in {folder / ERRORS}"
    lower = "; lower training.batch_size, training.chunk_size or data.ahead" if isinstance(cause, OutOfMemoryError) else ""
    return WorkerError(f"a worker of the training failed: {type(cause).__name__}: {first[:LINE]}{lower}{where}")
