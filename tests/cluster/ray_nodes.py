"""Several Ray nodes on this machine."""

from __future__ import annotations

from ray.cluster_utils import Cluster

PATIENCE_S = 60.0


def start_nodes(*cpus: int) -> Cluster:
    """A cluster with a node for every number of CPUs; the first is the head, on which a driver runs."""
    cluster = Cluster()
    for number in cpus:
        # Ray's own patience is too short for a machine with much to do.
        cluster.add_node(wait=False, num_cpus=number, node_ip_address="127.0.0.1", include_dashboard=False)
    cluster.wait_for_nodes(PATIENCE_S)
    return cluster
