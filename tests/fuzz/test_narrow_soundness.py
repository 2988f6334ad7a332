"""The verifier on random 16- and 32-bit code: a short run of its campaign."""

import random

import pytest

from tests.fuzz.narrow_soundness import random_sample, run


@pytest.mark.parametrize("seed", [0, 1_000_000])
def test_the_verifier_accepts_translations_of_random_code(seed: int) -> None:
    findings = run(1000, seed)

    assert findings.refused == []
    assert findings.fragments == 1000
    assert min(findings.reached.values()) > 0


def test_a_seed_means_one_sample() -> None:
    assert random_sample(random.Random(7)) == random_sample(random.Random(7))
