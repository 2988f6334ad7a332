r"""Ringlet: full virtualization of x86 in user space, driven from Python.

For example:

    import ringlet

    with ringlet.Machine("debian", memory="512M") as machine:
        machine.start()
        machine.console.expect("# ")
        machine.console.send("uname -r\n")
        print(machine.console.expect("# "))

Every error that a user can correct is a `RingletError`; `ringlet.errors` draws the tree.
"""

TYPE_CHECKING = False  # as in typing, which takes longer to import than everything here

if TYPE_CHECKING:
    from ringlet.control.agent.command import Result as Result
    from ringlet.control.agent.process import Process as Process
    from ringlet.control.awaitable import AsyncConsole as AsyncConsole
    from ringlet.control.awaitable import AsyncMachine as AsyncMachine
    from ringlet.control.background.client import Attached as Attached
    from ringlet.control.background.client import attach as attach
    from ringlet.control.background.client import machines as machines
    from ringlet.control.console import Console as Console
    from ringlet.control.inside import Cpu as Cpu
    from ringlet.control.inside import Memory as Memory
    from ringlet.control.machine import Machine as Machine
    from ringlet.control.parts import Mount as Mount
    from ringlet.control.spec import MachineSpec as MachineSpec
    from ringlet.disk_spec import DiskSpec as DiskSpec
    from ringlet.errors import AgentError as AgentError
    from ringlet.errors import AgentTimeoutError as AgentTimeoutError
    from ringlet.errors import BootError as BootError
    from ringlet.errors import CommandError as CommandError
    from ringlet.errors import CommandFailedError as CommandFailedError
    from ringlet.errors import CommandTimeoutError as CommandTimeoutError
    from ringlet.errors import ConfigError as ConfigError
    from ringlet.errors import DiskError as DiskError
    from ringlet.errors import GuestEnded as GuestEnded
    from ringlet.errors import GuestFileError as GuestFileError
    from ringlet.errors import GuestPanic as GuestPanic
    from ringlet.errors import GuestTimeout as GuestTimeout
    from ringlet.errors import HostError as HostError
    from ringlet.errors import HostFileError as HostFileError
    from ringlet.errors import ImageError as ImageError
    from ringlet.errors import InternalError as InternalError
    from ringlet.errors import OutputError as OutputError
    from ringlet.errors import ProgramError as ProgramError
    from ringlet.errors import RingletError as RingletError
    from ringlet.flat_spec import FlatPlace as FlatPlace
    from ringlet.machine.outcome import End as End
    from ringlet.machine.outcome import EndKind as EndKind
    from ringlet.network_config import NetConfig as NetConfig

_HOMES = {
    "control.agent.command": ("Result",),
    "control.agent.process": ("Process",),
    "control.awaitable": ("AsyncConsole", "AsyncMachine"),
    "control.background.client": ("Attached", "attach", "machines"),
    "control.console": ("Console",),
    "control.inside": ("Cpu", "Memory"),
    "control.machine": ("Machine",),
    "control.parts": ("Mount",),
    "control.spec": ("MachineSpec",),
    "errors": (
        "AgentError", "AgentTimeoutError", "BootError", "CommandError", "CommandFailedError",
        "CommandTimeoutError", "ConfigError", "DiskError", "GuestEnded", "GuestFileError",
        "GuestPanic", "GuestTimeout", "HostError", "HostFileError", "ImageError", "InternalError",
        "OutputError", "ProgramError", "RingletError",
    ),
    "disk_spec": ("DiskSpec",),
    "flat_spec": ("FlatPlace",),
    "machine.outcome": ("End", "EndKind"),
    "network_config": ("NetConfig",),
}  # fmt: skip
# The engine is large, so programs that need only the version or an error type skip it.
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # noqa: PLE0605 - it is a list of names
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'ringlet' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"ringlet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
