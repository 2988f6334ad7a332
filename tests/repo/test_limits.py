"""docs/limits.md says what the code does."""

import ast
import operator
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.observe import COUNTERS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ringlet"
ROW = re.compile(
    r"^\| ([^|]+) \| `([^`]+)` `(\w+)` \| (\d+) \| (?:`(\w+)` )?\| ([^|]+) \|$", re.MULTILINE
)
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.LShift: operator.lshift, ast.Mult: operator.mul, ast.Add: operator.add,
}  # fmt: skip


def rows() -> list[tuple[str, ...]]:
    return ROW.findall((ROOT / "docs" / "limits.md").read_text())


def value(text: str) -> int:
    """The number that an expression of constants comes to."""

    def of(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](of(node.left), of(node.right))
        assert isinstance(node, ast.Constant)
        return int(node.value)  # type: ignore[arg-type]  # a number, or the test fails

    return of(ast.parse(text.strip(), mode="eval").body)


def test_every_line_of_the_table_is_read() -> None:
    text = (ROOT / "docs" / "limits.md").read_text()

    assert len(rows()) == text.count("\n| ") - 1


@pytest.mark.parametrize(("what", "file", "name", "bound", "counter", "then"), rows())
def test_bound_is_the_codes(
    what: str, file: str, name: str, bound: str, counter: str, then: str
) -> None:
    found = re.search(
        rf"^ *{name}(?:: Final)? *= *([0-9x<>*+ ]+)", (SOURCE / file).read_text(), re.MULTILINE
    )

    assert found is not None, f"{file} has no {name} for {what}"
    assert value(found[1]) == int(bound)
    assert not counter or counter in COUNTERS
    assert then.strip()


def test_what_a_guest_fills_of_the_mmu_is_counted() -> None:
    """An entry that a newer one replaces in its place is an ordinary miss."""
    uncounted = [
        name for _, file, name, _, counter, _ in rows() if file[:4] == "mmu/" if not counter
    ]

    assert uncounted == ["TLB_SIZE"]


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_the_list_is_linked(page: str) -> None:
    assert "(docs/limits.md)" in (ROOT / page).read_text()
