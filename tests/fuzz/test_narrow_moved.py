"""Kept translations of random 32-bit code elsewhere: a short run of the campaign."""

import pytest

from tests.fuzz.narrow_moved import run


@pytest.mark.parametrize("seed", [0, 1_000_000])
def test_what_is_found_is_what_would_be_made(seed: int) -> None:
    findings = run(2000, seed)

    assert findings.wrong == []
    assert findings.reached["same, found"] > 500
    assert findings.reached["changed, found"] > 200
    assert findings.reached["changed, made"] > 200
