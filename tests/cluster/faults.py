"""Runs by the real command in a cluster of several Ray nodes, the faults that befall them, and what these cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from processes import start
from ray.cluster_utils import Cluster
from struck_env import strike_file

from machina.checkpoint import RunDirectory
from machina.checkpoint.status import Status
from machina.errors import UserError

UNROLL_LENGTH = 20
BATCH_SIZE = 4
TINY = (
    *("--config", "defaults", "--precision", "float32", "--hidden-sizes", "16", "--log-seconds", "1"),
    *("--learner-threads", "1", "--actor-threads", "1", "--env-threads", "1"),
    *("--unroll-length", str(UNROLL_LENGTH), "--batch-size", str(BATCH_SIZE), "--envs-per-task", "4"),
)
"""Options of a run that leaves the machine room for its faults."""

FOLDER = Path(__file__).parent
"""Where the commands run; they import ``struck_env`` from there."""

START_S = 150.0
"""How long a run may take to make its first updates: Ray starts its processes one after another."""

ACTOR_RECOVERY_S = 30.0
NODE_RECOVERY_S = 60.0
RANK_RECOVERY_S = 60.0

TOLD = {
    "raises": "step raised RuntimeError: the engine stalled",
    "nan": "(task 'struck_env:Struck-v0') is not finite",
    "sleeps": "environment 'struck_env:Struck-v0': no answer for ",
}
"""What the log says of the faults of ``struck_env``."""

ACTOR, RANK = "ray::ActorProcess", "ray::RankWorker"
"""Titles of the processes that hold an actor or a learner rank; what they do follows."""


class Job:
    """A run in a process of its own.

    Args:
        process: the command.
        run: its run directory.
    """

    def __init__(self, process: subprocess.Popen[str], run: RunDirectory) -> None:
        self.process = process
        self.run = run
        self.output = ""
        """What it printed, once it has ended."""

    def status(self) -> dict[str, Any]:
        """What the run wrote last of itself; empty before it began. Its account must be exact whenever it is read."""
        try:
            status = self.run.status()
        except UserError:
            return {}
        assert_account_is_exact(status)
        return status.model_dump()

    def wait(self, condition: Callable[[dict[str, Any]], bool], seconds: float) -> float:
        """Wait until the status answers ``condition`` with true; how long that took."""
        started = time.monotonic()
        while True:
            status = self.status()
            if status and condition(status):
                return time.monotonic() - started
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() - started < seconds, f"not in {seconds:g} s; the last status is {status}"
            time.sleep(0.1)

    def wait_for_actors(self, number: int) -> None:
        """Wait until this many actors have produced, and the learner has learned and said so."""
        self.wait(lambda status: status["updates"] > 0 and num_producing(status) == number, START_S)
        when(lambda: bool((self.run.path / "metrics.jsonl").read_text(encoding="utf-8")), 30)

    def wait_for_replacement(self, number: int, restarts: int, seconds: float) -> float:
        """Wait until as many actors as before produce, after this many restarts in all."""

        def recovered(status: dict[str, Any]) -> bool:
            total = sum(actor["restarts"] for actor in status["actors"])
            return total >= restarts and num_producing(status) == number

        return self.wait(recovered, seconds)

    def fail_environment(self, fault: str) -> float:
        """Bring a fault of ``struck_env`` down; how long until the run has dealt with it and learned on."""
        before = self.faults_log().count(TOLD[fault])
        strike_file(fault).touch()
        seconds = self.wait(lambda _: self.faults_log().count(TOLD[fault]) > before, ACTOR_RECOVERY_S)
        return seconds + self.wait_for_progress()

    def wait_for_progress(self, seconds: float = 60.0) -> float:
        """Wait until the learner has learned more than now."""
        before = self.status()["updates"]
        return self.wait(lambda status: status["updates"] >= before + 3, seconds)

    def faults_log(self) -> str:
        """The run's log of faults so far."""
        log = self.run.path / "faults.log"
        return log.read_text(encoding="utf-8") if log.exists() else ""

    def num_restarts(self) -> int:
        """Of the actors that are there."""
        return sum(actor["restarts"] for actor in self.status()["actors"])

    def env_steps_cut(self) -> float:
        """Env steps of unfinished unrolls that were lost, up to the last line of metrics."""
        cut: float = last_metrics(self.run.path)["faults/env_steps_cut"]
        return cut

    def interrupt(self) -> None:
        """Ctrl-C; the run must end well, with an exact account and a good checkpoint."""
        self.process.send_signal(signal.SIGINT)
        self.end()

    def end(self, seconds: float = 90.0) -> None:
        """Wait for the run's own end, which must be a good one."""
        self.output, err = self.process.communicate(timeout=seconds)
        # Ray reports objects that were lost with a node, in a line that nothing silences.
        lines = [line for line in err.splitlines() if ":info_message:" not in line]
        assert (self.process.returncode, lines) == (0, []), (self.output, err)
        last = last_metrics(self.run.path)
        names = ("accepted", "learned", "dropped", "queued")
        kind = "queue"
        if "replay/collected" in last:
            kind, names = "replay", ("collected", "stored", "removed", "lost")
        whole, *terms = (last[f"{kind}/{name}"] for name in names)
        assert whole == sum(terms)
        latest = self.run.latest()
        assert not latest.warnings
        assert latest.checkpoint.step == last["env_steps"]

    def kill(self) -> None:
        """SIGKILL, for the end of a test that failed."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def start_job(
    runs_dir: Path,
    *options: str,
    algorithm: str = "impala",
    environment: str = "struck_env:Struck-v0",
    start_new_session: bool = False,
) -> Job:
    """`machina train`, for five minutes unless the options say otherwise."""
    processes = ("--processes", "False") if "Struck" in environment and "--processes" not in options else ()
    minutes = () if "--minutes" in options else ("--minutes", "5")
    where = (*minutes, "--runs-dir", runs_dir, "--name", "run")
    arguments = ("train", algorithm, environment, *TINY, *processes, *where, *options)
    process = start(*arguments, cwd=FOLDER, start_new_session=start_new_session)
    return Job(process, RunDirectory(runs_dir / "run"))


def resume_job(job: Job) -> Job:
    """`machina resume`."""
    return Job(start("resume", job.run.path, cwd=FOLDER), job.run)


def cluster_options(nodes: Cluster) -> tuple[str, ...]:
    """Join this cluster."""
    return ("--place", "ray", "--address", nodes.address)


def last_metrics(run: Path) -> dict[str, Any]:
    """The last line of a run's metrics."""
    line: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return line


def assert_account_is_exact(status: Status) -> None:
    """Every accepted unroll is learned, dropped or queued."""
    accepted, *terms = status.account.values()
    assert accepted == sum(terms), status.account


def num_producing(status: dict[str, Any]) -> int:
    """Actors that have handed over at least one unroll."""
    return sum(actor["env_steps"] > 0 for actor in status["actors"])


def node_without_driver(nodes: Cluster) -> Any:
    """A node that can die without the driver's connection."""
    own = ray.get_runtime_context().get_node_id()
    sockets = {node["RayletSocketName"] for node in ray.nodes() if node["NodeID"] != own}
    return next(node for node in nodes.list_all_nodes() if node.raylet_socket_name in sockets)


def processes_on(node: Any, title: str) -> list[int]:
    """Processes of a node whose title begins like this."""
    return [pid for pid in children(node.all_processes["raylet"][0].process.pid) if title_of(pid).startswith(title)]


def processes_in(nodes: Cluster, title: str) -> list[int]:
    """The same on all nodes."""
    return [pid for node in nodes.list_all_nodes() for pid in processes_on(node, title)]


def children(parent: int) -> list[int]:
    """Living child processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def descendants(parent: int) -> list[int]:
    """Living children, their children, and so on."""
    found = children(parent)
    return [*found, *(pid for child in found for pid in descendants(child))]


def title_of(pid: int) -> str:
    """What a process calls itself."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def are_gone(pids: list[int]) -> bool:
    """Whether none of these processes lives."""
    return not any(is_alive(pid) for pid in pids)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def when(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until ``condition`` answers true; how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"it did not come to that in {seconds:g} s"
        time.sleep(0.1)
    return time.monotonic() - started


def kill(pid: int) -> None:
    """SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def measured(fault: str, recovery_s: float, lost: str) -> None:
    """A row for docs/reliability.md; pytest shows it with -s."""
    print(f"\n{fault}: recovered in {recovery_s:.1f} s; lost: {lost}")
