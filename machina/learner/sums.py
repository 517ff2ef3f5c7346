"""Learner ranks: processes that share every batch and add up what each made of its slots (torch.distributed)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import torch
from torch import Tensor, distributed

from machina.errors import RanksBrokenError

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
"""The environment variable that gives gloo its network interface."""

SIOCGIFADDR = 0x8915
"""Linux: the request for an interface's IPv4 address (netdevice(7))."""


class LearnerRanks:
    """Implements ``machina.interfaces.Ranks``; without a process group it is the only rank.

    Every rank must call ``add_up`` equally often and with tensors of the same shapes.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: distributed.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.size = size
        self._group = group

    @torch.no_grad()
    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its sum over the ranks: one all-reduce per dtype.

        The sums are the same on all ranks bit for bit, because each is computed once and then handed round.

        Raises:
            RanksBrokenError: a rank is dead or did not come in time. What the tensors hold is then undefined, and
                the group can only be closed.
        """
        if self._group is None:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        # In the order of the elements, whatever the memory layout, which may differ between ranks.
        flats = [torch.cat([tensor.reshape(-1) for tensor in same]) for same in by_dtype.values()]
        try:
            works = [distributed.all_reduce(flat, group=self._group, async_op=True) for flat in flats]
            for work in works:
                assert work is not None  # only a process outside the group gets none
                work.wait()
        except RuntimeError as error:
            raise RanksBrokenError(
                f"learner rank {self.rank} of {self.size} lost the others: {_line(error)}"
            ) from error
        for flat, same in zip(flats, by_dtype.values(), strict=True):
            sums = torch.split(flat, [tensor.numel() for tensor in same])
            for tensor, total in zip(same, sums, strict=True):
                tensor.copy_(total.view(tensor.shape))

    def close(self) -> None:
        """Leave the group, whatever state it is in; waits for no other rank. A second call does nothing."""
        if self._group is None or self._group is not distributed.group.WORLD:
            return
        if distributed.get_backend(self._group) == distributed.Backend.NCCL:
            # The public way waits for the peers' part of the farewell, which a dead one does not take.
            distributed.distributed_c10d._abort_process_group()
        else:
            distributed.destroy_process_group()


SINGLE_RANK = LearnerRanks()
"""The only rank of its learner: nothing is to be added up."""


def join_ranks(rank: int, size: int, rendezvous: str, device: torch.device, timeout_s: float) -> LearnerRanks:
    """Meet the other ranks; each calls this once, in a process of its own. Gloo on CPUs, NCCL on GPUs.

    Rank 0 listens at the rendezvous, without authentication: it belongs in a network whose users are trusted.

    Args:
        rank: of this process, from 0.
        size: number of ranks.
        rendezvous: ``tcp://HOST:PORT``, a free port of the machine of rank 0.
        device: where the tensors lie that will be added up; a GPU serves one rank.
        timeout_s: deadline of every wait for the others, in ``add_up`` and here, where there are several in a row.

    Raises:
        RanksBrokenError: not all ranks came in time.
    """
    device_id = None
    if device.type == "cuda":
        # Otherwise a failed collective ends the process from a thread of its own, or is never noticed.
        os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
        device_id = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    hook = sys.excepthook
    try:
        with _gloo_interface(urlsplit(rendezvous).hostname or ""):
            distributed.init_process_group(
                "gloo" if device_id is None else "nccl",
                init_method=rendezvous,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_s),
                device_id=device_id,
            )
    except RuntimeError as error:
        raise RanksBrokenError(f"learner rank {rank} of {size} did not meet the others: {_line(error)}") from error
    finally:
        sys.excepthook = hook  # every group would wrap it once more
    return LearnerRanks(rank, size, distributed.group.WORLD)


@contextmanager
def _gloo_interface(host: str) -> Iterator[None]:
    """Let gloo use the interface with the route to ``host``, unless the user names one.

    By itself it takes the address that this machine's name stands for. Where /etc/hosts says 127.0.1.1, as Debian's
    does, other machines can't reach that.
    """
    name = None if GLOO_INTERFACE in os.environ else interface_towards(host)
    if name is not None:
        os.environ[GLOO_INTERFACE] = name
    try:
        yield
    finally:
        if name is not None:
            del os.environ[GLOO_INTERFACE]


def interface_towards(host: str) -> str | None:
    """The network interface whose IPv4 address this machine shows to ``host``; None when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 1))  # looks the route up, sends nothing
        except OSError:
            return None
        own = socket.inet_aton(probe.getsockname()[0])
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                continue  # an interface without an address
            if answer[20:24] == own:
                return name
    return None


def _line(error: RuntimeError) -> str:
    """The first line of an error of torch, which may continue with a C++ stack."""
    return str(error).partition("\n")[0]
