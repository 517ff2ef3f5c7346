"""Starting a Ray cluster, joining one, being refused, and the user's own code in its processes."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import ray
from drivers import empty_home, processes_of, run_driver
from ray.cluster_utils import Cluster as RayNodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray_nodes import start_nodes

import machina
from machina.cluster.access import describe
from machina.cluster.cluster import Cluster, Node, connect, gpus_per_learner, num_actors
from machina.envs.builders import ENVIRONMENTS, parse_environment
from machina.errors import UserError
from machina.launch.configuration import job_config
from machina.launch.name_tables import modules_of, name_tables
from machina.launch.user_modules import user_modules
from machina.nets.build import NETWORKS
from machina.registry import ALGORITHMS, algorithm_entry

TASK_TIMEOUT_S = 120.0
REFUSAL_S = 15.0
"""Far above what a refusal takes, far below Ray's own patience of ten minutes."""


@pytest.fixture(scope="module")
def two_nodes(private_home: Path) -> Iterator[RayNodes]:
    """A head with one CPU and a node with two."""
    assert private_home.exists()
    nodes = start_nodes(1, 2)
    yield nodes
    nodes.shutdown()


@pytest.fixture
def joined(two_nodes: RayNodes) -> Iterator[Cluster]:
    cluster = connect(two_nodes.address, cores=1)
    yield cluster
    cluster.close()


def on_other_node(cluster: Cluster, function: Any, *arguments: Any) -> Any:
    """What ``function`` answers on the node that the driver is not on."""
    here = ray.get_runtime_context().get_node_id()
    (other,) = (node.id for node in cluster.nodes() if node.alive and node.id != here)
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    place = NodeAffinitySchedulingStrategy(other, soft=False)
    node, answer = ray.get(remote.options(scheduling_strategy=place).remote(*arguments), timeout=TASK_TIMEOUT_S)
    assert node == other
    return answer


# Starting


def test_a_cluster_of_our_own_is_guarded_and_quiet_and_ends_with_us() -> None:
    program = """
        import json, os
        from pathlib import Path
        from drivers import open_ports, processes_of
        from machina.cluster.cluster import connect

        cluster = connect(None, cores=3)
        import ray

        @ray.remote(max_restarts=1)
        class Mortal:
            def end(self):
                print("last words")
                os._exit(1)

        try:
            ray.get(Mortal.remote().end.remote(), timeout=60)
        except ray.exceptions.RayActorError:
            pass
        family = [os.getpid(), *processes_of(Path.home())]
        print(json.dumps([cluster.authenticated, cluster.nodes()[0].cpus, len(family), open_ports(family)]))
        cluster.close()
        cluster.close()
    """
    with empty_home() as home:
        driver = run_driver(program, home)
        assert driver.stderr == ""
        authenticated, cpus, num_processes, (listening, reachable) = json.loads(driver.stdout)
        assert authenticated
        assert cpus == 3
        assert num_processes > 3
        assert listening > 3
        assert reachable == 0, "other machines can reach it"
        token = home / ".ray" / "auth_token"
        assert len(token.read_text(encoding="utf-8")) == 64
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        deadline = time.monotonic() + 60  # Ray's helpers look for their parent every few seconds
        while processes_of(home) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert processes_of(home) == []


@pytest.mark.cluster
def test_nothing_waits_for_frozen_processes_of_ray() -> None:
    program = """
        import os, signal, time
        from machina.errors import RunFailedError
        from machina.cluster import cluster as module

        module.ANSWER_TIMEOUT_S = module.CLOSE_TIMEOUT_S = 2.0
        cluster = module.connect(None, cores=1)
        from ray._private import worker

        for kind in ("gcs_server", "raylet"):
            os.kill(worker._global_node.all_processes[kind][0].process.pid, signal.SIGSTOP)
        start = time.monotonic()
        try:
            cluster.nodes()
        except RunFailedError as error:
            print(error)
        cluster.close()
        print(time.monotonic() - start, flush=True)
        os._exit(0)  # as the command does: Ray's threads may still hang
    """
    with empty_home() as home:
        driver = run_driver(program, home)
        assert driver.returncode == 0, driver.stderr
        message, seconds = driver.stdout.splitlines()
        assert "no longer answers" in message
        assert float(seconds) < 10


# Joining


def test_a_joined_cluster_tells_its_nodes_and_is_left_running(two_nodes: RayNodes) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    for _ in range(2):
        cluster = connect(two_nodes.address, cores=1)
        assert cluster.address == two_nodes.address
        assert cluster.authenticated
        assert not cluster.started
        assert sorted(node.cpus for node in cluster.nodes()) == [1, 2]
        assert all(node.alive and node.object_store_bytes > 0 for node in cluster.nodes())
        assert sum(node.free_cpus for node in cluster.nodes()) == 3
        assert signal.getsignal(signal.SIGTERM) is handler, "Ray's handler would hide ours"
        with pytest.raises(UserError, match="connected to a Ray cluster already"):
            connect(two_nodes.address, cores=1)
        cluster.close()
    assert two_nodes.remaining_processes_alive()


def test_auto_is_the_cluster_of_this_machine(two_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)  # others may run clusters here
    assert f"cluster at {two_nodes.address} asks for our token" in describe()
    cluster = connect("auto", cores=1)
    assert cluster.address == two_nodes.address
    cluster.close()


def test_more_actors_than_cpus_are_refused_also_when_others_took_them(joined: Cluster) -> None:
    assert joined.num_actors("auto", 1.0) == 3
    assert joined.num_actors(12, 0.25) == 12
    with pytest.raises(UserError, match=r"the cluster has 3 CPUs on 2 nodes; take --actors 3 or --cpus-per-actor 0.25"):
        joined.num_actors(8, 1.0)

    def work() -> None:
        time.sleep(1000)

    other = ray.remote(num_cpus=2, max_retries=0)(work).remote()
    while sum(node.free_cpus for node in joined.nodes()) > 1:
        time.sleep(0.1)
    assert joined.num_actors("auto", 1.0) == 1
    with pytest.raises(UserError, match="3 CPUs on 2 nodes, 1 of them free"):
        joined.num_actors(2, 1.0)
    ray.cancel(other, force=True)
    assert joined.num_actors(2, 1.0) == 2, "they become free in a moment"


# Being refused


def refusal(address: str) -> str:
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        connect(address, cores=1)
    assert time.monotonic() - start < REFUSAL_S
    assert not ray.is_initialized()
    return str(error.value)


def test_without_the_token_or_with_another_one_nobody_joins(
    two_nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE")
    message = refusal(two_nodes.address)
    assert "asks for a token and there is none here; copy ~/.ray/auth_token of the cluster's head" in message
    monkeypatch.setenv("RAY_AUTH_TOKEN", "guess")
    assert "the token of RAY_AUTH_TOKEN is not this cluster's" in refusal(two_nodes.address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "nowhere"))
    assert "can't be read" in refusal(two_nodes.address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "unset RAY_AUTH_MODE" in refusal(two_nodes.address)


def test_a_wrong_address_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "no Ray head answers there" in refusal(f"127.0.0.1:{port}")
    assert "no Ray head answers there" in refusal(f"127.0.0.1:{port}"), "closed by now"
    assert "client protocol" in refusal("ray://127.0.0.1:10001")
    assert "must be auto or HOST:PORT" in refusal("somewhere")


@pytest.mark.cluster
def test_a_cluster_without_authentication_is_joined_unless_the_environment_forbids_it() -> None:
    program = """
        from machina.errors import UserError
        from machina.cluster.cluster import connect
        from machina.cluster.access import make_token, stay_on_loopback, use_authentication
        from ray_nodes import start_nodes

        stay_on_loopback(True)
        use_authentication("disabled")
        nodes = start_nodes(1)
        make_token()
        for mode in (None, "disabled", "token"):
            use_authentication(mode)
            try:
                cluster = connect(nodes.address, cores=1)
            except UserError as error:
                print(error)
                continue
            import ray
            print(mode, cluster.authenticated, ray.get(ray.remote(lambda: 7).remote(), timeout=60))
            cluster.close()
        use_authentication("disabled")
        nodes.shutdown()
    """
    with empty_home() as home:
        driver = run_driver(program, home)
        assert driver.returncode == 0, driver.stderr
        unset, disabled, token = driver.stdout.splitlines()
        assert unset == "None False 7"
        assert disabled == "disabled False 7"
        assert "asks for no token although RAY_AUTH_MODE=token" in token


# The user's own code


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that only the driver imports from: a module, what it imports, and a package."""
    folder = tmp_path / "own"
    (folder / "robot" / "parts").mkdir(parents=True)
    (folder / "gait.py").write_text("import json\nfrom limbs import LEGS\nimport gymnasium, machina\n", "utf-8")
    (folder / "limbs.py").write_text("LEGS = 4\n", encoding="utf-8")
    (folder / "robot" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "robot" / "parts" / "__init__.py").write_text("def late():\n    import spare\n", encoding="utf-8")
    (folder / "robot" / ".git").mkdir()
    (folder / "robot" / "data.txt").write_text("", encoding="utf-8")
    (folder / "spare.py").write_text("", encoding="utf-8")
    (folder / "unused.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return folder


def test_what_the_named_modules_import_travels_and_nothing_else(own_folder: Path) -> None:
    def names(*modules: str) -> list[str]:
        return [str(Path(path).relative_to(own_folder)) for path in user_modules(modules)]

    assert names("gait") == ["gait.py", "limbs.py"]
    assert names("robot.parts", "limbs") == ["limbs.py", "robot", "spare.py"]
    assert names("json", "gymnasium", "machina", "nowhere", "__main__") == []


def where_they_are() -> Any:
    """Answers where a process finds the user's module and package, and what is there."""

    def look() -> Any:
        import sys

        found: tuple[Any, ...]
        try:
            gait, robot = importlib.import_module("gait"), importlib.import_module("robot")
            files = {path.name for path in Path(robot.__path__[0]).iterdir()}
            found = (gait.__file__, gait.LEGS, files, sys.path)
        except ModuleNotFoundError as error:
            found = (str(error), None, None, sys.path)
        return ray.get_runtime_context().get_node_id(), found

    return look


def test_a_module_of_the_drivers_path_is_imported_on_another_node(two_nodes: RayNodes, own_folder: Path) -> None:
    cluster = connect(two_nodes.address, 1, user_modules(["gait", "robot"]))
    file, legs, files, path = on_other_node(cluster, where_they_are())
    assert legs == 4
    assert {"__init__.py", "parts", "data.txt"} <= files
    assert ".git" not in files
    assert "py_modules_files" in file
    assert str(own_folder) not in path
    cluster.close()
    without = connect(two_nodes.address, 1)
    assert on_other_node(without, where_they_are())[0] == "No module named 'gait'"
    without.close()


def test_what_the_program_registered_is_known_on_another_node(two_nodes: RayNodes, own_folder: Path) -> None:
    (own_folder / "wide_network.py").write_text("def build(spec, config):\n    return 'a network'\n", encoding="utf-8")
    build = importlib.import_module("wide_network").build

    class Idle(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(0.0, 1.0, (3,))
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, **_: Any) -> Any:
            return self.observation_space.low, {}

    def idle(num_slots: int) -> Any:
        return gymnasium.vector.SyncVectorEnv([Idle] * num_slots)

    gymnasium.register("Idle-v0", entry_point=lambda **_: Idle())
    machina.register_environment("idle", idle)
    machina.register_network("own", build)
    machina.register_algorithm("mine", "as impala", algorithm_entry("impala").config(), lambda _: None)  # type: ignore[arg-type,return-value]
    try:
        config, _ = job_config("impala", "Idle-v0", None)
        tables = name_tables(config)
        assert "wide_network" in modules_of(config, tables)
        cluster = connect(two_nodes.address, 1, user_modules(modules_of(config, tables)))

        def look(prepare: Any) -> Any:
            from machina.nets.build import NETWORKS
            from machina.registry import ALGORITHMS

            prepare()
            shapes = []
            for name in ("idle", "Idle-v0"):
                config, _ = job_config("impala", name, None)
                env = parse_environment(name, config.env).make([0, 0])
                shapes.append(env.reset([1, 2]).observation["observation"].shape)
            known = (NETWORKS["own"](None, None), ALGORITHMS["mine"].summary, len(ALGORITHMS))  # type: ignore[arg-type]
            return ray.get_runtime_context().get_node_id(), (shapes, *known)

        answer = on_other_node(cluster, look, tables.restore)
        assert answer == ([(2, 3), (2, 3)], "a network", "as impala", len(ALGORITHMS))
        cluster.close()
    finally:
        del ENVIRONMENTS["idle"], NETWORKS["own"], ALGORITHMS["mine"], gymnasium.registry["Idle-v0"]


# How much room there is


def node(cpus: float, gpus: float = 0, free: float | None = None) -> Node:
    return Node("id", "10.0.0.1", True, cpus, gpus, cpus if free is None else free, gpus, 2**30)


@pytest.mark.parametrize(
    ("actors", "cpus_per_actor", "nodes", "expected"),
    [
        (3, 1.0, [node(2), node(1)], 3),
        ("auto", 1.0, [node(2), node(4, free=1)], 3),
        ("auto", 0.1, [node(0.7)], 7),
        ("auto", 1.5, [node(2), node(2)], 2),
        ("auto", 1.0, [node(2, free=0)], 1),
    ],
)
def test_there_is_room(actors: Any, cpus_per_actor: float, nodes: list[Node], expected: int) -> None:
    assert num_actors(actors, cpus_per_actor, nodes) == expected


@pytest.mark.parametrize(
    ("actors", "cpus_per_actor", "nodes", "remedy"),
    [
        (16, 1.0, [node(2)], "actors=16: .* take --actors 2 or --cpus-per-actor 0.125"),
        (2, 1.5, [node(2), node(1)], "take --actors 1 or --cpus-per-actor 1"),
        ("auto", 4.0, [node(2)], "take --cpus-per-actor 1"),
        (1, 1.0, [node(2, free=0)], "add nodes, or wait until others are done"),
    ],
)
def test_there_is_no_room(actors: Any, cpus_per_actor: float, nodes: list[Node], remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        num_actors(actors, cpus_per_actor, nodes)


def test_learner_ranks_take_a_gpu_each_where_there_are_gpus() -> None:
    assert gpus_per_learner(4, "cpu", [node(2, gpus=1)]) == 0
    assert gpus_per_learner(4, "auto", [node(2)]) == 0
    assert gpus_per_learner(2, "auto", [node(2, gpus=1), node(2, gpus=1)]) == 1
    with pytest.raises(UserError, match=r"learners=4: .* the cluster has 2; take --learners 2 or less"):
        gpus_per_learner(4, "auto", [node(2, gpus=2)])
    with pytest.raises(UserError, match="the cluster has 0; take --device cpu"):
        gpus_per_learner(1, "cuda", [node(2)])
