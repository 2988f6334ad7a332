"""Prints the addresses of symbols in a running guest's kernel, and what is there.

python examples/python/symbols.py linux_banner init_task
"""

import sys

import ringlet


def main(names: list[str]) -> None:
    """Boot Debian and look the names up."""
    with ringlet.Machine("debian", memory="512M") as machine:
        machine.start().ready()
        for name in names or ["linux_banner"]:
            linear = machine.memory.symbol(name)
            physical = machine.memory.translate(linear)
            where = f"physical {physical:#x}" if physical is not None else "not mapped"
            data = machine.memory.read_linear(linear, 32)
            print(f"{name}: {linear:#x}, {where}: {data!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
