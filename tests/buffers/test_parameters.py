"""Publication of parameters."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from machina.buffers.parameters import ParameterStore


def test_the_newest_version_is_read() -> None:
    store = ParameterStore()
    with pytest.raises(RuntimeError):
        store.latest()
    store.publish(0, torch.zeros(3), 0.0)
    store.publish(7, torch.ones(3), 0.0)
    latest = store.latest()
    assert latest.policy_version == 7
    assert latest.flat.tolist() == [1, 1, 1]


def test_wait_for_counts_publications() -> None:
    store = ParameterStore()
    store.publish(0, torch.zeros(1), 0.0)
    assert store.wait_for(1, timeout_s=0) is not None
    assert store.wait_for(2, timeout_s=0.01) is None
    threading.Timer(0.05, lambda: store.publish(4, torch.zeros(1), 0.0)).start()
    started = time.monotonic()
    parameters = store.wait_for(2, timeout_s=5)
    assert time.monotonic() - started < 4
    assert parameters is not None
    assert parameters.policy_version == 4


def test_a_version_may_count_for_several_publications() -> None:
    store = ParameterStore()
    store.publish(3, torch.zeros(1), 0.0)
    store.count_up_to(4)
    store.count_up_to(2)
    parameters = store.wait_for(4, timeout_s=0)
    assert parameters is not None
    assert parameters.policy_version == 3
    assert store.wait_for(5, timeout_s=0) is None
