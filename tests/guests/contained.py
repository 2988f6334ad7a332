"""Runs a command under the limits of a container.

`python -m tests.guests.contained --profile seccomp.json -- ringlet doctor` runs it with the default
system call filter of Podman and Docker, without capabilities and without a way to new privileges.
`--tasks N` lets its user have N more tasks (processes and threads) than now.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import struct
from pathlib import Path
from typing import Any, Final

STRANGER: Final = 54321
"""A user who has no tasks: the limit does not hold for root."""
_DAC_OVERRIDE: Final = 1
_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 8, 24, 38, 47
_CAP_AMBIENT_RAISE: Final = 2
_SYS_CAPSET: Final = 126
_CAPABILITY_VERSION: Final = 0x20080522
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_OPERATORS: Final = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_OTHER_ARCHITECTURES: Final = (0x40000003, 0x4000003E)  # x86 and x32

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def _set_capabilities(mask: int) -> None:
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    sets = struct.pack("<6I", mask, mask, mask, 0, 0, 0)
    _checked(_libc.syscall(_SYS_CAPSET, header, sets), "capset")


def drop_capabilities() -> None:
    """Give up all capabilities, also those that root would get with the next program."""
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _set_capabilities(0)


def limit_tasks(more: int) -> None:
    """Let the user have a few tasks more than now.  Root becomes another user, who reads all."""
    if os.getuid() == 0:
        _checked(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        _set_capabilities(1 << _DAC_OVERRIDE)
        raised = _libc.prctl(_PR_CAP_AMBIENT, _CAP_AMBIENT_RAISE, _DAC_OVERRIDE, 0, 0)
        _checked(raised, "PR_CAP_AMBIENT")
    limit = _own_tasks() + more
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def _own_tasks() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += len(list((process / "task").iterdir()))
        except OSError:  # it has ended
            continue
    return count


def _applies(rule: dict[str, Any]) -> bool:
    """Whether a rule is for this architecture and a process without capabilities."""
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    return (
        not includes.get("caps")
        and ("amd64" in includes.get("arches", ["amd64"]))
        and "amd64" not in excludes.get("arches", [])
    )


def _action(name: str, code: int | None) -> int:
    return _ALLOW if name == "SCMP_ACT_ALLOW" else _ERRNO | (1 if code is None else code)


def load_profile(profile: Path) -> None:
    """Load a filter as container engines write them.  Raises OSError."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    text = json.loads(profile.read_text())
    default = _action(text["defaultAction"], text.get("defaultErrnoRet"))
    context = ctypes.c_void_p(seccomp.seccomp_init(default))
    for architecture in _OTHER_ARCHITECTURES:
        seccomp.seccomp_arch_add(context, architecture)
    for rule in filter(_applies, text["syscalls"]):
        action = _action(rule["action"], rule.get("errnoRet"))
        if action == default:
            continue
        comparisons = [
            _Comparison(a["index"], _OPERATORS[a["op"]], a["value"], a["valueTwo"])
            for a in rule.get("args") or []
        ]
        array = (_Comparison * len(comparisons))(*comparisons)
        for name in rule["names"]:
            number = seccomp.seccomp_syscall_resolve_name(name.encode())
            if number != -1:  # libseccomp knows it
                result = seccomp.seccomp_rule_add_array(
                    context, action, number, len(comparisons), array
                )
                if result:
                    raise OSError(-result, f"rule for {name}: {os.strerror(-result)}")
    result = seccomp.seccomp_load(context)
    if result:
        raise OSError(-result, f"the filter: {os.strerror(-result)}")


def main() -> None:
    """Take the limits and become the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.tasks is not None:
        limit_tasks(options.tasks)
    if options.profile is not None:
        drop_capabilities()
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
        load_profile(options.profile)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
