"""The list of rows, and their scripts."""

import importlib.resources
import re
import subprocess
from pathlib import Path

import pytest

from ringlet.bench.debian.rows import GROUPS, IO_ROWS, ROWS, chosen, fnv, groups_of, plan
from ringlet.errors import ConfigError

ALL = (*ROWS, *IO_ROWS)
SCRIPTS = Path(str(importlib.resources.files("ringlet.bench.debian") / "rows"))


def test_each_row_has_a_script_and_each_script_a_row() -> None:
    assert {path.stem for path in SCRIPTS.iterdir()} == {row.name for row in ALL}


@pytest.mark.parametrize("row", [row.name for row in ALL])
def test_each_script_can_prepare_and_run(row: str) -> None:
    text = (SCRIPTS / f"{row}.sh").read_text()
    for name in re.findall(r"^\. /bench/files/(\S+)$", text, re.MULTILINE):
        text += (SCRIPTS.parent / "files" / name).read_text()

    checked = subprocess.run(["sh", "-n", SCRIPTS / f"{row}.sh"], check=False)

    assert checked.returncode == 0
    assert "\nprepare() {" in text
    assert "\nrun() {" in text


def test_each_row_is_in_a_group_and_smaller_when_quick() -> None:
    assert {row.group for row in ALL} == {group.name for group in GROUPS}
    assert all(0 < row.quick <= row.size for row in ALL)


def test_rows_of_io_are_chosen_from_their_own_list() -> None:
    assert [row.name for row in chosen(["net-in", "disk-read"], IO_ROWS)] == ["disk-read", "net-in"]
    with pytest.raises(ConfigError, match="no row 'perl'; choose from disk-write, disk-read"):
        chosen(["perl"], IO_ROWS)


def test_rows_are_chosen_by_name_in_the_tables_order() -> None:
    assert [row.name for row in chosen(["perl", "json"])] == ["json", "perl"]
    assert chosen([]) == list(ROWS)


def test_an_unknown_row_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="no row 'cobol'; choose from getppid, fault, json"):
        chosen(["json", "cobol"])


def test_only_groups_of_chosen_rows_need_an_image() -> None:
    assert [group.name for group in groups_of(chosen(["gcc", "perl", "make"]))] == ["base", "gcc"]


def test_the_plan_names_rows_with_their_sizes() -> None:
    rows = chosen(["perl", "xz"])

    assert plan(rows, quick=False) == "perl:3,xz:2"
    assert plan(rows, quick=True) == "perl:1,xz:1"
    assert plan(rows, quick=True, port=40000) == "perl:1:40000,xz:1:40000"


def test_the_whole_plan_fits_in_a_kernels_command_line() -> None:
    plans = [plan([r for r in ALL if r.group == g.name], quick=False, port=65535) for g in GROUPS]

    assert max(map(len, plans)) < 900


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", "cbf29ce484222325"), (b"a", "af63dc4c8601ec8c"), (b"foobar", "85944171f73967e8")],
)
def test_the_hash_is_fnv_1a(data: bytes, expected: str) -> None:
    assert fnv(data) == expected
