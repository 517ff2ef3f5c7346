"""Shards of a replay in processes of this machine, which can be killed."""

from __future__ import annotations

from collections.abc import Callable

from machina.handles import Handle, ProcessHandle


def nothing() -> None:
    """A process of a shard needs no names."""


class ProcessShards:
    """Implements ``machina.buffers.buffer.Shards`` with a process each."""

    def __init__(self) -> None:
        self.handles: list[ProcessHandle] = []
        self.reports: list[str] = []

    def start(self, make: Callable[[], object], name: str) -> Handle:
        self.handles.append(ProcessHandle(nothing, make, name, 1))
        return self.handles[-1]

    def report(self, message: str) -> None:
        self.reports.append(message)

    def kill_last(self) -> None:
        """As the kernel does when memory runs out."""
        process = self.handles[-1].process
        process.kill()
        process.join()
