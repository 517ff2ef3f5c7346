"""Ray apart from the user's own: its token and its files lie in folders of the tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from machina.cluster.access import make_token, stay_on_loopback, use_authentication


@pytest.fixture(scope="module", autouse=True)
def private_home() -> Iterator[Path]:
    """A home with a token of its own. Clusters that a test starts ask for it, and listen on loopback only."""
    # Below /tmp itself: names of sockets may have 107 characters, and pytest's folders take most of them.
    home = Path(tempfile.mkdtemp(prefix="ray"))
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
            patch.delenv(variable, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_TMPDIR", str(home))
        make_token()
        use_authentication("token")
        stay_on_loopback(True)
        yield home
        ray.shutdown()
        use_authentication(None)
    shutil.rmtree(home, ignore_errors=True)
