"""What a run counts between two lines of its metrics."""

from __future__ import annotations

import math

from machina.launch.progress import Means


def test_an_update_that_was_skipped_does_not_spoil_the_means_of_the_others() -> None:
    means = Means()
    means.add({"loss": 2.0, "skipped": 0.0, "variance": 0.5})
    means.add({"skipped": 1.0, "variance": math.nan, "norm": math.inf})
    assert not means.empty
    taken = means.take()
    assert (taken["loss"], taken["skipped"], taken["variance"]) == (2.0, 0.5, 0.5)
    assert math.isnan(taken["norm"]), "nothing finite is shown as nothing, not left out"
    assert means.take() == {}
