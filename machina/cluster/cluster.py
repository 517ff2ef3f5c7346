"""The Ray cluster of a run: started on this machine or joined, what it has, and how many actors it has room for.

Ray is imported inside the functions: the command line and the other places do without it. Verified with Ray 2.60.0.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from machina.cluster.access import (
    AUTH_MODE,
    authentication_of,
    authentication_of_own,
    head_address,
    is_loopback,
    stay_on_loopback,
    use_authentication,
)
from machina.errors import RunFailedError, UserError

ANSWER_TIMEOUT_S = 20.0
"""How long the cluster's head may take to say what there is. Ray ends this process 60 s after it lost its head."""

CLOSE_TIMEOUT_S = 30.0
"""How long leaving may take; 1 s is usual, 7 s without a head, endless if a process of Ray's is frozen."""

FREE_TIMEOUT_S = 10.0
"""How long CPUs may take to become free: those of a run that has just ended are still counted as taken."""

ROUNDING = 1e-6
"""0.7 CPUs are room for 7 actors of 0.1; floating point numbers say 6.999."""

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""CPUs per actor that are proposed where there are too few."""

RAYS_SHARE = 0.3
"""Of the memory, for the object store, by default."""

LEAST_STORE = 80 * 2**20
"""Bytes; Ray takes no store of less than 75 MiB."""

SHIPPED_WITHOUT = ["__pycache__", ".git"]
"""Parts of a package folder that do not travel."""


class Node(NamedTuple):
    """A machine of the cluster. A dead one has nothing."""

    id: str
    """Ray's, hexadecimal; ``ray.get_runtime_context().get_node_id()`` there."""
    address: str
    alive: bool
    cpus: float
    gpus: float
    free_cpus: float
    free_gpus: float
    object_store_bytes: int


class Cluster:
    """This process's connection to a cluster; ``connect`` makes it.

    Args:
        address: HOST:PORT of the head.
        started: whether it was started for this process, and ends with it.
        authenticated: whether it asks for a token. One that does not runs code of anyone who reaches its ports.
        former_mode: RAY_AUTH_MODE before.
    """

    def __init__(self, address: str, started: bool, authenticated: bool, former_mode: str | None) -> None:
        self.address = address
        self.started = started
        self.authenticated = authenticated
        self._former_mode = former_mode
        self._closed = False

    def nodes(self) -> list[Node]:
        """The nodes that are in the cluster, and the dead ones that were.

        Raises:
            RunFailedError: the cluster's head does not answer.
        """
        found: list[Node] = []
        if not _done_within(ANSWER_TIMEOUT_S, lambda: found.extend(ray_nodes())):
            raise RunFailedError(
                f"the head of the Ray cluster at {self.address} no longer answers; start the cluster again and "
                "resume the run"
            )
        return found

    def num_actors(self, actors: int | Literal["auto"], cpus_per_actor: float) -> int:
        """How many actors to start, see ``num_actors``; waits a little for CPUs that become free.

        Raises:
            UserError: the cluster has no room for this many.
            RunFailedError: the cluster's head does not answer.
        """
        deadline = time.monotonic() + FREE_TIMEOUT_S
        while True:
            nodes = self.nodes()
            room = room_for_actors(nodes, cpus_per_actor)
            if actors == "auto" or actors <= room.free or actors > room.total or time.monotonic() > deadline:
                return num_actors(actors, cpus_per_actor, nodes)
            time.sleep(0.5)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started for this process. A second call does nothing.

        If a process of Ray's is frozen, threads of ours hang on in Ray's code: end this process by ``os._exit`` then.
        """
        if self._closed:
            return
        self._closed = True
        import ray

        if not _done_within(CLOSE_TIMEOUT_S, lambda: ray.shutdown(wait_for_processes=self.started)):
            # Ray waits for a frozen process without a limit, here and again when this process ends.
            atexit.unregister(ray.shutdown)
            _kill_own_processes()
        use_authentication(self._former_mode)


def connect(address: str | None, cores: int, modules: Sequence[str] = ()) -> Cluster:
    """Start Ray on this machine, or join a running cluster.

    Args:
        address: None starts one on loopback, without a dashboard, that asks for a token unless RAY_AUTH_MODE is
            ``disabled``. ``auto`` or HOST:PORT joins one; it is asked first whether it wants a token.
        cores: CPUs of a cluster that is started; one that is joined knows its own.
        modules: files and package folders that every process of the run can import, see ``user_modules``.

    Raises:
        UserError: Ray is not installed, is connected already, can't be reached, or refuses the token.
        RunFailedError: Ray does not start here.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("place 'ray' needs Ray: pip install 'ray>=2.60,<3', or use --place local")
    import ray

    if ray.is_initialized():
        raise UserError("this process is connected to a Ray cluster already; call ray.shutdown() first")
    former_mode = os.environ.get(AUTH_MODE)
    if address is None:
        options: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        authenticated = authentication_of_own()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # Ray lowers the priority of its workers by 15: any other job on the machine starves them.
        os.environ.setdefault("RAY_worker_niceness", "0")
        options |= _store_size()
        stay_on_loopback(True)
    else:
        head = head_address(address)
        options = {"address": head}
        authenticated = authentication_of(head)
        stay_on_loopback(is_loopback(head))
        _check_own_node(head)
    use_authentication("token" if authenticated else "disabled")
    try:
        where = _join(modules, options)
    except BaseException as error:
        use_authentication(former_mode)
        if not isinstance(error, Exception):
            raise
        reason = " ".join(str(error).split())[:400]
        if address is None:
            raise RunFailedError(f"Ray does not start on this machine: {reason}") from error
        raise UserError(f"address {address!r}: the cluster can't be joined: {reason}") from error
    return Cluster(where, address is None, authenticated, former_mode)


def _store_size() -> dict[str, int]:
    """Size of the object store where /dev/shm, as in most containers, has less than Ray wants.

    Ray would put its store on the disk then.
    """
    room = int(0.9 * shutil.disk_usage("/dev/shm").free)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"object_store_memory": room} if LEAST_STORE <= room < RAYS_SHARE * memory else {}


def _join(modules: Sequence[str], options: dict[str, Any]) -> str:
    """``ray.init`` without its chatter and without its signal handler; returns the head's address."""
    import ray
    import ray._private.worker

    # Faults of actors are reported by the run, in its own words; Ray prints a page for each, whatever log_to_driver
    # says. Its debugger silences it like this too.
    ray._private.worker._worker_logs_enabled = False
    # What a broken learner group still had under way is not asked for; Ray would print its traceback.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if modules:
        options["runtime_env"] = {"py_modules": list(modules), "excludes": SHIPPED_WITHOUT}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        if in_main_thread:  # what is started inherits it: a terminal that is closed must not end Ray before the run
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if in_main_thread:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return str(ray.get_runtime_context().gcs_address)


def _check_own_node(head: str) -> None:
    """Ray would look for a node on this machine for a minute.

    Raises:
        UserError: there is none.
    """
    from ray._private import services

    if not services.find_node_ids():
        raise UserError(
            f"address {head!r}: this machine is not a node of that cluster; run `ray start --address={head}` here "
            "first, with --num-cpus=0 if no actors are to run here"
        )


def ray_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to; hangs when its head is gone."""
    import ray
    import ray._private.state

    # The public function returns the sum over the nodes only.
    free = ray._private.state.available_resources_per_node()
    return [_node(entry, free.get(entry["NodeID"], {})) for entry in ray.nodes()]


def _node(entry: dict[str, Any], free: dict[str, float]) -> Node:
    alive, has = bool(entry["Alive"]), entry["Resources"]
    return Node(
        id=entry["NodeID"],
        address=entry["NodeManagerAddress"],
        alive=alive,
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        free_cpus=free.get("CPU", 0.0) if alive else 0.0,
        free_gpus=free.get("GPU", 0.0) if alive else 0.0,
        object_store_bytes=int(has.get("object_store_memory", 0)),
    )


class Room(NamedTuple):
    """Numbers of actors."""

    total: int
    """If nothing else ran on the cluster."""
    free: int


def room_for_actors(nodes: Sequence[Node], cpus_per_actor: float) -> Room:
    """How many actors the nodes have CPUs for; an actor lives on one node."""

    def fitting(cpus: float) -> int:
        return int(cpus / cpus_per_actor + ROUNDING)

    return Room(sum(fitting(node.cpus) for node in nodes), sum(fitting(node.free_cpus) for node in nodes))


def num_actors(actors: int | Literal["auto"], cpus_per_actor: float, nodes: Sequence[Node]) -> int:
    """How many actors to start: ``actors``, or with ``auto`` as many as there are free CPUs for, at least one.

    Raises:
        UserError: there is no room for this many; they would wait indefinitely.
    """
    room = room_for_actors(nodes, cpus_per_actor)
    if actors == "auto" and room.total > 0:
        return max(1, room.free)
    wanted = 1 if actors == "auto" else actors
    if wanted <= room.free:
        return wanted
    raise UserError(
        f"actors={actors}: at {cpus_per_actor:g} CPUs each there is room for {room.free}; {_cpus_line(nodes)}; "
        f"{_remedy(wanted, room, nodes)}"
    )


def _cpus_line(nodes: Sequence[Node]) -> str:
    cpus, free = sum(node.cpus for node in nodes), sum(node.free_cpus for node in nodes)
    taken = f", {free:g} of them free" if free < cpus else ""
    living = sum(node.alive for node in nodes)
    return f"the cluster has {cpus:g} CPUs on {living} node{'s' if living > 1 else ''}{taken}"


def _remedy(wanted: int, room: Room, nodes: Sequence[Node]) -> str:
    remedies = [f"--actors {room.free}"] if room.free else []
    shares = [share for share in SHARES if room_for_actors(nodes, share).free >= wanted]
    if shares:
        remedies.append(f"--cpus-per-actor {shares[0]:g}")
    return f"take {' or '.join(remedies)}" if remedies else "add nodes, or wait until others are done"


def gpus_per_learner(learners: int, device: str, nodes: Sequence[Node]) -> int:
    """GPUs that each learner rank takes: one on ``cuda``, or on ``auto`` where there are any; else none.

    Raises:
        UserError: more ranks than GPUs.
    """
    gpus = int(sum(node.gpus for node in nodes))
    if device == "cpu" or (device == "auto" and gpus == 0):
        return 0
    if learners > gpus:
        less = f"take --learners {gpus} or less, or --device cpu" if gpus else "take --device cpu"
        raise UserError(f"learners={learners}: each takes a GPU and the cluster has {gpus}; {less}")
    return 1


def _done_within(timeout_s: float, do: Callable[[], Any]) -> bool:
    """Whether ``do`` came back in time. What it raises is raised here; if it hangs, it hangs in a thread of its own."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if raised:
        raise raised[0]
    return not thread.is_alive()


def _kill_own_processes() -> None:
    """SIGKILL for the processes of Ray that this one started; those of a joined cluster are none of ours."""
    from ray._private import worker

    node: Any = worker._global_node
    for processes in node.all_processes.values() if node is not None else ():
        for process in processes:
            process.process.kill()
