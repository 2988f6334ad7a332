"""Random requests to a shared directory's server: a short run of `python -m tests.fuzz.shares`."""

import errno

import pytest

from ringlet.devices.backends.shares import host
from tests.fuzz.shares import Findings, run


def test_random_requests_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "sync_filesystem", lambda fd: None)
    findings = Findings()

    run(3, 0, findings)

    assert findings.broken == []
    assert findings.answers[0] > 100
    assert {-errno.EINVAL, -errno.ENOENT, -errno.EBADF, -errno.ESTALE} <= findings.answers.keys()
