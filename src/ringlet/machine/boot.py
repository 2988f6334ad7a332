"""Builds a PC with a kernel in its memory, ready to enter the kernel."""

from ringlet.config import LinuxConfig
from ringlet.machine import pc
from ringlet.machine.cpu import MakeCpu
from ringlet.machine.loading import check, load_kernel, read_kernel


def build(config: LinuxConfig, make_cpu: MakeCpu, options: pc.Options) -> pc.Pc:
    """Return the machine.  Raises ProgramError and ConfigError."""
    kernel = read_kernel(config.kernel, config.memory)
    # Check before the processor is made, because its memory is freed only by a garbage collection.
    check(kernel, config.append, config.initrd)
    cpu = make_cpu(config.memory)
    machine = pc.assemble(cpu, options)
    load_kernel(
        cpu,
        kernel,
        command_line=config.append,
        initrd=config.initrd,
        rsdp=machine.rsdp,
        rsdp_table=machine.rsdp_table,
    )
    return machine
