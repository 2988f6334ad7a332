"""Ringlet against the host processor: registers, flags, memory, vectors, faults."""
from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.differential.campaign import (
    Report,
    differences,
    form_programs,
    from_corpus,
    random_programs,
    run_campaign,
)
from tests.differential.engine import Engine
from tests.differential.generate import Style, random_program
from tests.differential.native import NativeRunner

CORPUS = sorted(Path(__file__).with_name("corpus").glob("*.txt"))


def _summary(report: Report) -> str:
    return "\n\n".join(d.text() for d in report.divergences.values())


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)
def test_corpus_program_is_equal(path: Path, native: NativeRunner, ringlet: Engine) -> None:
    assert differences(native, ringlet, from_corpus(path.read_text())) == []


@pytest.mark.parametrize("path", CORPUS, ids=lambda p: p.stem)
def test_corpus_program_is_equal_with_exact(path: Path, native: NativeRunner,
                                            ringlet_exact: Engine) -> None:
    assert differences(native, ringlet_exact, from_corpus(path.read_text())) == []


def test_random_programs_are_equal_with_exact(native: NativeRunner, ringlet_exact: Engine) -> None:
    report = run_campaign(native, ringlet_exact, random_programs(50, 1000), keep=3)
    assert not report.different, _summary(report)


def test_every_form_is_equal(native: NativeRunner, ringlet: Engine) -> None:
    report = run_campaign(native, ringlet, form_programs(seed=1), keep=3)
    assert not report.different, _summary(report)


@pytest.mark.parametrize("seed", range(4))
def test_random_programs_are_equal(seed: int, native: NativeRunner, ringlet: Engine) -> None:
    report = run_campaign(native, ringlet, random_programs(seed, 1000), keep=3)
    assert not report.different, _summary(report)


def test_programs_with_wild_addresses_are_equal(native: NativeRunner, ringlet: Engine) -> None:
    report = run_campaign(native, ringlet, random_programs(99, 1000, Style(wild=0.3)), keep=3)
    assert not report.different, _summary(report)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_hypothesis_programs_are_equal(native: NativeRunner, ringlet: Engine,
                                       rng: random.Random) -> None:
    program = random_program(rng, Style(most=6))
    assert differences(native, ringlet, [program]) == []
