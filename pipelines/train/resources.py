"""What a training takes of the cluster."""

from __future__ import annotations

import logging

from pipelines.cluster.connect import ResourceError, cluster_has, needs_of
from pipelines.cluster.growth import awaited
from pipelines.data.streaming import decoding_cpus
from vop.config import Experiment

logger = logging.getLogger(__name__)


def check_resources(experiment: Experiment) -> bool:
    """Whether to use GPUs. Raises ResourceError if the workers do not fit the cluster, before they hang.

    Waits for nodes that can still come.
    """
    resources, own = experiment.resources, needs_of(experiment.resources)
    if own.get("GPU", 1) < 1 and resources.most > 1:
        share = f"resources.gpus_per_worker={resources.gpus_per_worker:g}"
        raise ResourceError(
            f"{share} is for trainings with resources.num_workers=1: two workers of one cannot share a GPU (NCCL)"
        )
    decoding = [{"CPU": 1.0}] * decoding_cpus(experiment)
    who = f"the training needs {{}} for {resources.fewest} workers{' and 1 to decode' if decoding else ''}"
    if lacks := awaited(who, [own] * resources.fewest + decoding):
        raise ResourceError(f"{lacks}: lower resources.num_workers or resources.cpus_per_worker")
    if resources.use_gpu is None and "GPU" not in own and (gpus := cluster_has("GPU", "train")):
        logger.warning(
            "training on CPUs: each of resources.num_workers=%s wants a GPU, the cluster has %g; resources.num_workers=%d "
            "trains on GPUs, with the same loss",
            *(resources.num_workers, gpus, max(1, int(gpus))),
        )
    return "GPU" in own
