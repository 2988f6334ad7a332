"""docs/api.md is what the docstrings say."""

import re

from docs.api import PAGE, page

import ringlet
from tests.repo.layers import ROOT

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.api"


def test_every_public_name_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert [name for name in ringlet.__all__ if name not in text] == []


def test_programs_in_the_documents_are_programs() -> None:
    for document in ("README.md", "docs/python.md", "docs/tutorial.md"):
        programs = PYTHON.findall((ROOT / document).read_text(encoding="utf-8"))
        assert programs
        for program in programs:
            compile(program, document, "exec")
