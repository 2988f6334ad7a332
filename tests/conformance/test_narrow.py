"""Every conformance program of 16- and 32-bit code on every engine: all its checks hold."""

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conformance.engines import run_disturbed, run_on_pc, run_qemu, run_ringlet
from tests.conformance.narrow_faults import ENDED, known_narrow_fault
from tests.conformance.test_guests import assert_all_checks_hold, no_known_fault
from tests.guests.build_guest import Guest
from tests.guests.build_narrow import build_narrow, narrow_names


@cache
def gcc_makes_32_bit_code() -> bool:
    words = ["gcc", "-m32", "-ffreestanding", "-x", "c", "-c", "-o", "/dev/null", "-"]
    return not subprocess.run(words, input=b"#include <stdarg.h>\n", check=False).returncode


pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not gcc_makes_32_bit_code(), reason="no gcc for 32-bit code"),
]

NarrowFor = Callable[[str], Guest]


@pytest.fixture(scope="session")
def narrow_for(tmp_path_factory: pytest.TempPathFactory) -> NarrowFor:
    """Gives a program by name, built at its first use in the session."""
    directory = tmp_path_factory.mktemp("narrow")

    @cache
    def get(name: str) -> Guest:
        image: Path = build_narrow(name, directory)
        return Guest(name, image, image)

    return get


@pytest.mark.parametrize("name", narrow_names())
def test_narrow_program_on_ringlet(name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_ringlet(narrow_for(name)), no_known_fault)


# These look at the debug registers, in which the steps are.
OF_DEBUGGING = {"stepping", "system"}


@pytest.mark.parametrize("name", sorted(set(narrow_names()) - OF_DEBUGGING))
def test_narrow_program_an_instruction_at_a_time(name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_disturbed(narrow_for(name), "step"), no_known_fault)


@pytest.mark.parametrize("name", narrow_names())
def test_narrow_program_that_is_often_stopped(name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_disturbed(narrow_for(name), "kick"), no_known_fault)


DEBUGGED = (
    ("debug", "hello"), ("debug", "stepping"), ("debug", "tasks"), ("watch", "stepping"),
    ("watch", "virtual8086"), ("break", "interrupts"), ("break", "transfers"),
)  # fmt: skip


@pytest.mark.parametrize(("mode", "name"), DEBUGGED)
def test_narrow_program_that_is_debugged(mode: str, name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_disturbed(narrow_for(name), mode), no_known_fault)


@pytest.mark.parametrize("name", ["addressing", "limits", "paging"])
def test_narrow_program_on_exact_ringlet(name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_ringlet(narrow_for(name), "--exact"), no_known_fault)


@pytest.mark.parametrize("name", ["hello", "tasks"])
def test_narrow_program_as_a_multiboot_kernel(name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_on_pc(narrow_for(name)), no_known_fault)


@pytest.mark.reference
@pytest.mark.parametrize("name", sorted(set(narrow_names()) - ENDED.keys()))
def test_narrow_program_on_qemu(name: str, narrow_for: NarrowFor) -> None:
    assert_all_checks_hold(run_qemu(narrow_for(name)), known_narrow_fault)
