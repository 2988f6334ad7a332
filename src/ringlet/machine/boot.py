"""A PC with a Linux kernel in its memory, about to be entered."""

from ringlet.config import LinuxConfig
from ringlet.machine import pc
from ringlet.machine.cpu import MakeCpu
from ringlet.machine.linux import check, load_linux, read_kernel


def build(config: LinuxConfig, make_cpu: MakeCpu, options: pc.Options) -> pc.Pc:
    """Return the machine.  Raises ProgramError and ConfigError."""
    kernel = read_kernel(config.kernel, config.memory)
    # Before there is a processor with its memory, which takes the next collection to be freed.
    check(kernel, config.append, config.initrd)
    cpu = make_cpu(config.memory)
    machine = pc.assemble(cpu, options)
    load_linux(
        cpu,
        kernel,
        command_line=config.append,
        initrd=config.initrd,
        rsdp=machine.rsdp,
    )
    return machine
