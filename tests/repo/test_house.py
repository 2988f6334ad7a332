"""The repository keeps its own rules."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

import ringlet
from tests.repo.layers import ROOT

LONGEST = 500
LONGEST_TEST = 750  # a chip's or an instruction's cases belong together
TEXT = {".py", ".pyx", ".pxd", ".pyi", ".md", ".toml", ".build", ".S", ".c", ".h", ".sh", ""}
# The words are concatenated here, so that this file does not contain what it forbids.
OUTSIDE = ["/" + place for place in ("work/", "tmp/wt", "opt/rv", "home/", "root/", "tmp/brief")]


def tracked() -> list[Path]:
    """Return the files of the checkout; without git (a source archive), all existing files."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
        return [p for p in paths if p.is_file()]
    hidden = {"build", ".venv", ".git", "__pycache__"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not hidden & set(p.parts)]


FILES = tracked()


def readable(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_no_source_file_is_too_long() -> None:
    sources = [p for p in FILES if p.suffix in {".py", ".pyx"}]
    lengths = {str(p.relative_to(ROOT)): len(readable(p).splitlines()) for p in sources}

    limits = {n: LONGEST_TEST if n.startswith("tests/") else LONGEST for n in lengths}

    assert {name: n for name, n in lengths.items() if n > limits[name]} == {}


def test_lines_of_cython_fit_in_100_columns() -> None:
    sources = [p for p in FILES if p.suffix in {".pyx", ".S"}]
    long = [
        f"{p.relative_to(ROOT)}:{number}"
        for p in sources
        for number, line in enumerate(readable(p).splitlines(), 1)
        if len(line) > 100
    ]

    assert long == []


def test_nothing_mentions_a_path_outside_the_repository() -> None:
    texts = [p for p in FILES if p.suffix in TEXT and p.name != "LICENSE"]
    found = [
        f"{p.relative_to(ROOT)}: {outside}"
        for p in texts
        for outside in OUTSIDE
        if outside in readable(p)
    ]

    assert found == []


def test_no_binary_file_is_committed() -> None:
    binary = [str(p.relative_to(ROOT)) for p in FILES if b"\0" in p.read_bytes()[:8192]]

    assert binary == []


def test_a_program_that_runs_in_the_checkout_imports_the_compiled_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import ringlet; print(ringlet.Machine.__name__)"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, "Machine\n"), done.stderr


def test_one_version_everywhere() -> None:
    project = tomllib.loads(readable(ROOT / "pyproject.toml"))["project"]
    meson = re.search(r"version: '([\d.]+)'", readable(ROOT / "meson.build"))
    changelog = re.search(r"^## ([\d.]+)", readable(ROOT / "CHANGELOG.md"), re.MULTILINE)

    assert meson is not None
    assert changelog is not None
    assert {project["version"], meson[1], changelog[1]} == {ringlet.__version__}


def commands() -> list[str]:
    """Return the lines of the README's first code block."""
    block = re.search(r"((?:^    \S.*\n)+)", readable(ROOT / "README.md"), re.MULTILINE)
    assert block is not None
    return [line.strip() for line in block[1].splitlines()]


def test_readme_shows_two_commands() -> None:
    assert commands() == ["./dev debian", "./dev test"]


def test_ci_runs_the_readmes_test_command() -> None:
    assert re.search(r"^(exec )?\./dev test\b", readable(ROOT / ".ci/run"), re.MULTILINE)


@pytest.mark.parametrize("script", ["dev", ".ci/run"])
def test_scripts_are_executable(script: str) -> None:
    assert (ROOT / script).stat().st_mode & 0o111 == 0o111


def test_table_of_decisions_is_complete() -> None:
    folder = ROOT / "docs/adr"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", readable(folder / "README.md"))

    assert listed == sorted(p.name for p in folder.glob("[0-9]*.md"))


def test_every_dependency_has_its_reason() -> None:
    settings = tomllib.loads(readable(ROOT / "pyproject.toml"))
    project = settings["project"]
    wanted = [
        *settings["build-system"]["requires"],
        *project["dependencies"],
        *project["optional-dependencies"]["test"],
    ]
    names = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in wanted}
    given = set(
        re.findall(r"^\| `([\w.-]+)` \|", readable(ROOT / "docs/dependencies.md"), re.MULTILINE)
    )

    assert names - given == set()


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        f"{p.relative_to(ROOT)}: {target}"
        for p in FILES
        if p.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[\w-]+)?\)", readable(p))
        if not (p.parent / target).exists()
    ]

    assert broken == []


def test_the_readmes_picture_is_small_and_well_formed() -> None:
    picture = ROOT / "docs/session.svg"

    assert picture.stat().st_size < 60_000
    assert ET.fromstring(readable(picture)).tag.endswith("svg")
    assert "](docs/session.svg)" in readable(ROOT / "README.md")


def test_bits_of_control_registers_are_defined_once() -> None:
    home = ROOT / "src/ringlet/core/control_bits.pxd"
    names = re.findall(r"^    (\w+) = ", readable(home), re.MULTILINE)
    definition = re.compile(rf"^\s*_?({'|'.join(names)})\b(: \w+)? = ", re.MULTILINE)
    sources = [p for p in FILES if p.suffix in {".py", ".pyx", ".pxd"} and p != home]
    again = [
        f"{p.relative_to(ROOT)}: {match[1]}"
        for p in sources
        if p.is_relative_to(ROOT / "src")
        for match in definition.finditer(readable(p))
    ]

    assert names
    assert again == []


def test_work_to_come_is_in_the_roadmap_not_in_the_code() -> None:
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    sources = [p for p in FILES if p.suffix in {".py", ".pyx", ".pxd", ".S", ".c"}]

    assert [str(p.relative_to(ROOT)) for p in sources if marks.search(readable(p))] == []
