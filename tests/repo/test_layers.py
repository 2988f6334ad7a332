"""Imports point down only: import-linter for Python, and a reading of the Cython files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.layers import PACKAGE, ROOT, height, layers, may_import

CYTHON = sorted(p for p in PACKAGE.rglob("*") if p.suffix in {".pyx", ".pxd"})
_FROM = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+(\w+)", re.MULTILINE)
_PLAIN = re.compile(r"^\s*c?import\s+([\w.]+)", re.MULTILINE)


def imported_packages(source: str) -> set[str]:
    """Return the packages directly under `ringlet` that the Cython source `source` imports."""
    modules = [f"{module}.{name}" for module, name in _FROM.findall(source)]
    modules += _PLAIN.findall(source)
    ours = [m.split(".") for m in modules if m.startswith("ringlet.")]
    return {parts[1] for parts in ours}


def test_imports_are_read_in_all_their_forms() -> None:
    source = (
        "from ringlet.core.state cimport CpuState, u64\n"
        "from ringlet cimport mmu\n"
        "import ringlet.cache.codecache as c\n"
        "cimport ringlet.vcpu.x\n"
        "    from ringlet.translate.learn import learn\n"
        "from libc.stdint cimport uint64_t\n"
    )

    assert imported_packages(source) == {"core", "mmu", "cache", "vcpu", "translate"}


def test_lower_layers_do_not_import_higher_ones_or_siblings() -> None:
    assert may_import("machine", "devices")
    assert not may_import("devices", "machine")
    assert not may_import("devices", "vcpu")
    assert not may_import("core", "unheard_of")


@pytest.mark.parametrize("path", CYTHON, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_cython_file_imports_down_only(path: Path) -> None:
    importer = path.relative_to(PACKAGE).parts[0]
    imported = imported_packages(path.read_text())

    assert {name for name in imported if not may_import(importer, name)} == set()


def test_every_package_has_its_layer() -> None:
    packages = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}

    assert {name for name in packages if height(name) is None} == set()


def test_layers_name_nothing_twice() -> None:
    names = [name for layer in layers() for name in layer]

    assert len(names) == len(set(names))


def test_import_linter_reports_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
