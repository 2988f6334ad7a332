"""A PC with a Linux kernel in its memory, about to be entered."""

from collections.abc import Callable

from ringlet.config import LinuxConfig
from ringlet.machine import pc
from ringlet.machine.cpu import Cpu
from ringlet.machine.linux import load_linux, read_kernel

MakeCpu = Callable[[int], Cpu]
"""Makes a processor with so many bytes of RAM."""


def build(
    config: LinuxConfig, make_cpu: MakeCpu, options: pc.Options, initrd: bytes | None = None
) -> pc.Pc:
    """Return the machine.  `initrd` is an initial RAM disk in place of the configuration's.

    Raises ProgramError and ConfigError.
    """
    kernel = read_kernel(config.kernel, config.memory)
    cpu = make_cpu(config.memory)
    machine = pc.assemble(cpu, options)
    load_linux(
        cpu,
        kernel,
        command_line=config.append,
        initrd=config.initrd if initrd is None else initrd,
        rsdp=machine.rsdp,
    )
    return machine
