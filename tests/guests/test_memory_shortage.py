"""A guest that runs out of memory: its kernel kills a program, and only that one."""

from __future__ import annotations

import pytest

import ringlet

PATIENCE = 120
pytestmark = pytest.mark.timeout(600)


def test_program_that_takes_all_memory_is_killed_alone() -> None:
    with ringlet.Machine("debian", memory="320M") as machine:
        machine.start().ready(PATIENCE)

        killed = machine.run("tail /dev/zero; echo rc $?", timeout=PATIENCE)

        assert killed.stdout == "rc 137\n"
        after = machine.run("cat /proc/self/oom_score_adj /proc/self/cgroup", timeout=PATIENCE)
        assert after.stdout == "0\n0::/ringlet\n"
