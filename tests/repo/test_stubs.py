"""The stubs of compiled modules match the modules."""

import ast
import enum
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.layers import PACKAGE, PROBES

STUBS = {
    ".".join(path.relative_to(root).with_suffix("").parts): path
    for root in (PACKAGE.parent, PROBES)
    for path in sorted(root.rglob("*.pyi"))
}
Definition = ast.FunctionDef | ast.AnnAssign | ast.Assign | ast.ClassDef


def named(body: list[ast.stmt]) -> dict[str, Definition]:
    """Return the definitions in the body of a module or class, by name."""
    return {_name(node): node for node in body if isinstance(node, Definition)}


def _name(node: Definition) -> str:
    if isinstance(node, ast.AnnAssign | ast.Assign):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        assert isinstance(target, ast.Name)
        return target.id
    return node.name


def classes(stub: str) -> Iterator[tuple[type, dict[str, Definition]]]:
    """Return a module's extension classes and enumerations, and their stubs' definitions."""
    module = importlib.import_module(stub)
    for name, node in named(ast.parse(STUBS[stub].read_text()).body).items():
        if isinstance(node, ast.ClassDef):
            yield getattr(module, name), named(node.body)


def public(names: Iterator[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def test_there_are_stubs() -> None:
    assert "ringlet.vcpu.processor" in STUBS


@pytest.mark.parametrize("stub", STUBS)
def test_what_a_stub_defines_is_there(stub: str) -> None:
    module = importlib.import_module(stub)

    assert named(ast.parse(Path(STUBS[stub]).read_text()).body).keys() - set(dir(module)) == set()


@pytest.mark.parametrize("stub", STUBS)
def test_classes_have_the_members_that_their_stubs_say(stub: str) -> None:
    for found, members in classes(stub):
        here = found.__members__ if issubclass(found, enum.Enum) else vars(found)
        assert issubclass(found, tuple) or public(iter(here)) == public(iter(members)), found
