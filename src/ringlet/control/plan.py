"""Finds and checks the files that a machine starts from: its kernel, RAM disk and command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ringlet.config import LinuxConfig
from ringlet.control.spec import Called, MachineSpec, in_python, require_supported
from ringlet.errors import ConfigError
from ringlet.images.arguments import with_huge_pages
from ringlet.images.busybox import find_busybox
from ringlet.images.debian import fetch_kernel
from ringlet.images.initramfs import Command, Shell, make_initramfs
from ringlet.machine.linux import check, read_kernel

Task: TypeAlias = Shell | Command
"""What a named guest is to do: a shell on its console, or one command."""

DEFAULT_APPEND: Final = "console=ttyS0"
"""The command line of a user's own kernel; without it such a kernel prints nothing anywhere."""

# The kernel resets the machine at once after a panic, and that ends the run.
_PANIC: Final = "panic=-1"


@dataclass(frozen=True, slots=True)
class Plan:
    """The checked files of a machine; `name` is its kernel's, for the user."""

    config: LinuxConfig
    name: str


def check_files(spec: MachineSpec, called: Called = in_python) -> None:
    """Check the files that the user named, before anything is fetched, opened or written.

    Raises ConfigError and ProgramError.
    """
    require_supported(spec, called)
    if not (spec.guest or spec.kernel):
        raise ConfigError("nothing to run; for example: ringlet run debian")
    if spec.kernel is not None:
        kernel = read_kernel(spec.kernel, spec.memory)
        check(kernel, _own(spec), spec.initrd)


def plan(
    spec: MachineSpec,
    task: Task,
    *,
    quiet: bool = True,
    progress: Callable[[str], None] = lambda text: None,
    called: Called = in_python,
) -> Plan:
    """Return what `spec` starts from; fetch what is not in the cache.

    `task` is for a named guest.  With `quiet`, its kernel prints errors alone.  Raises
    ConfigError, ProgramError and ImageError.
    """
    check_files(spec, called)
    if not spec.guest:
        assert spec.kernel is not None
        config = LinuxConfig(spec.kernel, spec.memory, spec.initrd, _own(spec))
        return Plan(config, spec.kernel.name)
    kernel, name = _kernel(spec, progress)
    busybox = find_busybox(progress)
    words = ["console=ttyS0", *(["quiet"] if quiet else []), _PANIC, spec.append or ""]
    append = with_huge_pages(" ".join(words).rstrip(), kernel)
    initrd = make_initramfs(busybox, task)
    return Plan(LinuxConfig(kernel, spec.memory, initrd, append), name)


def _kernel(spec: MachineSpec, progress: Callable[[str], None]) -> tuple[Path, str]:
    """Return the kernel of a named guest and its name for the user."""
    if spec.kernel is not None:
        return spec.kernel, spec.kernel.name
    kernel = fetch_kernel(spec.package, progress)
    read_kernel(kernel.vmlinuz, spec.memory)
    return kernel.vmlinuz, f"Linux {kernel.release}"


def _own(spec: MachineSpec) -> str:
    """Return the command line of a user's own kernel."""
    return DEFAULT_APPEND if spec.append is None else spec.append
