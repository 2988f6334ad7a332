"""The translations of the golden cases are the accepted ones, and sound."""

import difflib
from pathlib import Path

import pytest

from ringlet.translate.translator import KEYS, Translator
from ringlet.translate.verify import verify
from ringlet.translate.verify.narrow import verify_narrow
from tests.golden import cases
from tests.golden.cases import Case

TOPICS = cases.topics()
CASES = [case for topic in TOPICS for case in cases.read(topic)]


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.stem)
def test_translation_is_the_accepted_one(topic: Path) -> None:
    accepted = cases.golden_of(topic).read_text()

    made = cases.listings(topic)

    diff = difflib.unified_diff(accepted.splitlines(), made.splitlines(), "accepted", "made", n=5)
    assert made == accepted, "\n".join(
        [*diff, "if this is meant: python -m tests.golden.accept, and review the change"]
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_golden_translation_is_sound(case: Case) -> None:
    code = cases.assemble(case.source, case.bits)
    translator = Translator(speculate=case.speculate)
    room = 4096 - case.at % 4096
    cut = 0 < room < 16
    made = translator.translate(
        code if cut else code[:room],
        linear=case.at,
        key=KEYS[f"mode{case.bits}"] | case.cpl | case.flags,
        limit=int(cut),
        indirect=case.thunk,
    )

    assert (verify if case.bits == 64 else verify_narrow)(made) == []


def test_titles_are_unique() -> None:
    titles = [case.title for case in CASES]

    assert len(titles) == len(set(titles))
