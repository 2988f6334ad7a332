r"""Ringlet: full virtualization of x86 in user space, driven from Python.

For example:

    import ringlet

    with ringlet.Machine.debian() as machine:
        machine.boot()
        machine.console.expect("# ")
        machine.console.send("uname -r\n")
        print(machine.console.expect("# "))
"""

TYPE_CHECKING = False  # as in typing, which takes longer to import than everything here

if TYPE_CHECKING:
    from ringlet.control.console import Console
    from ringlet.control.machine import Machine

__all__ = ["Console", "Machine"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    # The engine is large, so programs that need only the version or an error type skip it.
    if name == "Machine":
        from ringlet.control.machine import Machine

        return Machine
    if name == "Console":
        from ringlet.control.console import Console

        return Console
    raise AttributeError(f"module 'ringlet' has no attribute {name!r}")
