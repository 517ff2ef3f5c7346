"""What a rank says of a batch of which some slots went down with a node."""

from __future__ import annotations

import numpy as np

from machina.cluster.workers import learned_of_all
from machina.types import Learned


def test_priorities_stay_with_the_slots_that_came() -> None:
    came = np.array([True, False, True, True, False])
    learned = learned_of_all(Learned({}, priorities=np.array([1, 2, 3], np.float32)), came)
    assert learned.lost == 2
    assert learned.priorities is not None
    np.testing.assert_array_equal(learned.priorities, np.array([1, np.nan, 2, 3, np.nan], np.float32))


def test_where_nothing_is_sampled_there_are_no_priorities() -> None:
    assert learned_of_all(Learned({}), np.array([True, False])) == Learned({}, lost=1)
