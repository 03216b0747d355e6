"""Clusters that grow: what is not there yet may come, where Ray's autoscaler starts nodes for it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray._private.worker import global_worker
from ray.autoscaler._private.util import format_readonly_node_type
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.autoscaler.v2.utils import is_autoscaler_v2
from ray.util import placement_group, remove_placement_group

from pipelines.cluster.connect import cluster_has, labelled

logger = logging.getLogger(__name__)
GRACE = 60.0  # seconds after the autoscaler had something under way: it may try again, a node is seen a while after its start


def awaited(who: str, bundles: Sequence[dict[str, float]], role: str = "train") -> str:
    """What the cluster lacks for bundles of resources, in words, after nodes have come that can; "" where it has room for all.

    who: the words' beginning, with {} for how much of what: "the training needs {} for 2 workers".

    What asks for them is a placement group, as of any work: with labels, and gone when this returns. Where the autoscaler
    starts nothing for it (the cluster is as large as it may be, no kind of node has such resources) this gives up after GRACE.
    """
    lacks = _lacks(who, bundles, role)
    if not lacks or not grows():
        return lacks
    logger.warning("%s: waiting for nodes that the cluster can start", lacks)
    selectors = [selector for selector in labelled(role).values() for _ in bundles]
    group = placement_group(list(bundles), bundle_label_selector=selectors or None)
    seen = time.monotonic()
    try:
        while lacks and time.monotonic() < seen + GRACE:
            time.sleep(1)
            seen = time.monotonic() if _said()[1] else seen
            lacks = _lacks(who, bundles, role)
    finally:
        remove_placement_group(group)
    return lacks


def _lacks(who: str, bundles: Sequence[dict[str, float]], role: str) -> str:
    for name in {name: None for bundle in bundles for name in bundle}:
        needed, there = sum(bundle.get(name, 0) for bundle in bundles), cluster_has(name, role)
        if there < needed:
            return f"{who.format(f'{needed:g} {name}')}, the cluster has {there:g} for it"
    return ""


def grows() -> bool:
    """Whether an autoscaler can start nodes of the cluster: one that only looks on calls each node by its id."""
    return bool(_said()[0] - {"", *(format_readonly_node_type(node["NodeID"]) for node in ray.nodes())})


def _said() -> tuple[set[str], int]:
    """What the autoscaler said last: the kinds of the nodes that there are, and how many are on their way."""
    gcs = global_worker.gcs_client  # Ray's own functions take that of `ray.init`, which may be of a Ray before
    if is_autoscaler_v2(gcs_client=gcs):
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        kinds = {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
        return kinds, len(status.pending_nodes) + sum(launch.count for launch in status.pending_launches)
    found = gcs.internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode(), None) or "{}"
    said = json.loads(found).get("autoscaler_report") or {}
    kinds = set(said.get("active_nodes") or ()) | set(said.get("idle_nodes") or ())
    return kinds, len(said.get("pending_nodes") or ()) + sum((said.get("pending_launches") or {}).values())
