"""How many workers a training has whose number is a range: as many as there is room for, and more from an epoch's end on."""

from __future__ import annotations

import logging
import time
from typing import Any

from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ScalingDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.util import placement_group_table

from pipelines.cluster.connect import ROLE, free_workers, staying

logger = logging.getLogger(__name__)
SETTLES = 2.0  # seconds until what workers had that ended is seen to be free
REMINDER = 60.0  # seconds between two sentences of a training that waits
LEFT = "epochs_left"  # in what a worker reports


class ElasticPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's, which asks a cluster that grows for the most workers. But it counts what is free, and grows between epochs.

    Ray's own counts all that living nodes have, whatever their label, whoever uses it, and though they are about to be taken
    away, so that a training could wait for ever for what it never gets; and it would stop workers in the middle of an epoch.
    """

    def __init__(self, scaling: ScalingConfig, spare_cpus: float) -> None:
        super().__init__(scaling)
        self.spare_cpus, self.group, self.said = spare_cpus, None, float("-inf")

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """As many workers as have room; none where that is too few."""
        time.sleep(SETTLES)
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision) and time.monotonic() > self.said + REMINDER:
            self.said = time.monotonic()
            logger.warning("the training waits until the cluster has room for its %d workers", self.scaling_config.min_workers)
        return decision

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """More workers, where there is room now, when the checkpoint of an epoch has been written that is not the last."""
        self.group = worker_group_state.placement_group_handle.placement_group
        report = worker_group_status.worker_statuses[0].training_report
        if report is not None and report.metrics[LEFT]:
            return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        self._maybe_send_resource_request()
        return NoopDecision()

    def _count_possible_workers(self, reserved_resources: object) -> int:
        """Workers that there are, on nodes that stay, and those that have room beside them."""
        # after a preemption there is still the group of before
        table: dict[str, Any] = placement_group_table(self.group) if self.group else {"state": "REMOVED"}
        where = {} if table["state"] == "REMOVED" else table["bundles_to_node_id"]
        stay, role = staying(), (self.scaling_config.label_selector or {}).get(ROLE, "")
        own = sum(node in stay for node in where.values())
        room = free_workers(self.scaling_config._resources_per_worker_not_none, role, self.spare_cpus)
        return min(own + room, int(self.scaling_config.max_workers))
