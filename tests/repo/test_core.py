"""Compiled code that runs while the guest's vector registers are live neither uses nor loses them.

What Cython makes of a `cdef` function is called `__pyx_f_...`; the rest of a module is called from
Python, with the guest's registers put away.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from ringlet.core import state

PACKAGE = Path(state.__file__).parents[1]
# The cdef functions of these modules are also called only from Python.
OF_PYTHON = {"devices.virtio.frames", "devices.virtio.queue", "mmu.guest_memory",
             "translate.shape", "translate.learn_table", "translate.translator",
             "vcpu.debug.requests", "vcpu.emulation.host_conduct", "vcpu.emulation.native",
             "vcpu.emulation.operand",
             "vcpu.fields", "vcpu.processor", "vcpu.processor_state"}  # fmt: skip
# What is made and given back outside `run`; what is called only before it loads the guest's
# registers, or in the signal handler, for which the kernel saves them; the methods of a class.
LIFE = re.compile(
    r"_(create|destroy|attach|detach|install_handlers|(enter|leave)_thread)$|Probe_"
)
# These functions end the process, so registers no longer matter.
FATAL = {"abort"}
# These functions only make system calls.
PLAIN = {"getpid", "mmap64", "mprotect", "munmap", "syscall", "timer_settime"}

FUNCTION = re.compile(r"[0-9a-f]+ <(\w+?)(?:\.\w+)*>:")
IMPORTED = re.compile(r"(?:call|jmp)\s+[0-9a-f]+ <(\w+)@plt>")
VECTOR = re.compile(r"%[xyz]mm\d|%mm\d")


def name_of(module: Path) -> str:
    return ".".join((*module.parent.relative_to(PACKAGE).parts, module.name.split(".")[0]))


MODULES = {name_of(p): p for p in sorted(PACKAGE.rglob("*.so"))}
CORE = sorted(MODULES.keys() - OF_PYTHON)


@cache
def functions(module: str) -> dict[str, list[str]]:
    """The instructions of each `cdef` function."""
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", MODULES[module]],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in done.stdout.splitlines():
        head = FUNCTION.match(line)
        if head:
            # Parts that the compiler split off count as part of the function.
            current = found.setdefault(head[1], [])
        else:
            current.append(line)
    return {name: lines for name, lines in found.items() if name.startswith("__pyx_f_")}


pytestmark = pytest.mark.skipif(not shutil.which("objdump"), reason="no objdump")


def test_modules_called_from_python_only_are_there() -> None:
    assert MODULES.keys() > OF_PYTHON


def test_functions_have_names() -> None:
    assert "__pyx_f_7ringlet_4vcpu_4loop_3run_run_loop" in functions("vcpu.loop.run")


@pytest.mark.parametrize("module", CORE)
def test_core_calls_nothing_of_libc_that_uses_vector_registers(module: str) -> None:
    called = {
        (name, match[1])
        for name, lines in functions(module).items()
        for line in lines
        if not LIFE.search(name) and (match := IMPORTED.search(line))
    }

    assert {(name, of) for name, of in called if of not in FATAL | PLAIN} == set()


@pytest.mark.parametrize("module", CORE)
def test_core_names_no_vector_register(module: str) -> None:
    named = {
        name
        for name, lines in functions(module).items()
        if any(VECTOR.search(line) for line in lines)
    }

    assert named == set()


@pytest.mark.parametrize("module", CORE)
def test_core_finds_its_thread_locals_without_the_dynamic_linker(module: str) -> None:
    """`__tls_get_addr` may allocate, and the signal handler uses thread-locals."""
    done = subprocess.run(
        ["objdump", "-T", "-R", MODULES[module]], capture_output=True, text=True, check=True
    )

    assert "DYNAMIC RELOCATION RECORDS" in done.stdout
    assert not re.search("__tls_get_addr|R_X86_64_(DTPMOD64|DTPOFF64|TLSDESC)", done.stdout)


def test_mark_of_a_code_page_is_seen_before_its_bytes_are_read() -> None:
    """A device's thread writes data and then looks at the mark (ringlet.mmu.ram)."""
    marks = functions("mmu.ram")["__pyx_f_7ringlet_3mmu_3ram_protect_code"]

    assert any(re.search(r"\tlock |\tmfence", line) for line in marks)
