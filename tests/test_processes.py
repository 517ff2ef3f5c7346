"""Ending what was started."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid

from machina.processes import RUN_MARK, end_started_by

STUBBORN = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


def test_what_is_started_meanwhile_ends_too() -> None:
    """The first program is waited for, and meanwhile a thread starts the second."""
    mark = uuid.uuid4().hex

    def begin() -> subprocess.Popen[bytes]:
        environ = {**os.environ, RUN_MARK: mark}
        return subprocess.Popen([sys.executable, "-c", STUBBORN], env=environ, stdout=subprocess.PIPE)

    programs = [begin()]
    assert programs[0].stdout is not None
    programs[0].stdout.readline()  # it ignores SIGTERM by now
    later = threading.Timer(0.3, lambda: programs.append(begin()))
    later.start()
    end_started_by([], RUN_MARK, [mark])
    later.join()
    assert [program.wait(timeout=5) < 0 for program in programs] == [True, True]
    for program in programs:
        assert program.stdout is not None
        program.stdout.close()
