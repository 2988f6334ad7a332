"""Checks of the programs and libraries of the host that some guests and commands need.

No guest needs all of them; a command that needs one names it when it is missing.
"""

import ctypes
import importlib.util
import shutil
from typing import Final

from ringlet.devices.backends.disks.engine import ADVICE, PROGRAM
from ringlet.devices.backends.network.opening import INSTALL
from ringlet.machine.host import Finding, Verdict

_LIBSLIRP: Final = "libslirp.so.0"
_GPGV: Final = "install gpgv (Debian, Ubuntu) or gnupg (others)"
_PROGRAMS: Final = (
    ("apt-get", "fetches Debian's kernel and packages", ""),
    ("gpgv", "checks Debian's signatures where there is no apt", _GPGV),
    ("passt", "--net user", INSTALL["passt"]),
    (PROGRAM, "disks in the format qcow2", ADVICE),
    ("gcc", "builds the examples", ""),
    ("gdb", "debugs guests", ""),
    ("qemu-system-x86_64", "comparison in benchmarks", ""),
)
"""Each with what it is for, and how to install it where a guest may need it."""


def examine_programs() -> list[Finding]:
    """Look for all of them and return the findings."""
    found = [_finding(name, shutil.which(name) or "", *about) for name, *about in _PROGRAMS]
    found.append(
        _finding("libslirp", _libslirp(), "--net user where passt cannot run", INSTALL["libslirp"])
    )
    zstandard = "installed" if importlib.util.find_spec("zstandard") is not None else ""
    use = "reads layers and archives compressed by zstd"
    found.append(_finding("zstandard", zstandard, use, "pip install zstandard"))
    return found


def _finding(name: str, found: str, use: str, remedy: str) -> Finding:
    text = f"{found or 'not installed'} ({use})"
    return Finding(name, Verdict.INFO, text, "" if found else remedy)


def _libslirp() -> str:
    try:
        ctypes.CDLL(_LIBSLIRP)
    except OSError:
        return ""
    return _LIBSLIRP
