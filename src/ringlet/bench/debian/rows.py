"""The rows of `ringlet bench programs`, and the groups that share a guest.

A group has an image of its own, because one with all packages would need too much guest RAM.  All
groups take their packages from the same release of Debian.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ringlet.errors import ConfigError

# What every row's script needs.
_BASE: Final = ("base-files", "coreutils", "dash", "libc-bin", "mawk", "sed", "grep")


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share an image: the Debian packages in it, without those that they depend on."""

    name: str
    packages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A program: its script is `rows/NAME.sh`, which finds its size in N.

    `quick` is the size for a short run.  A row with a `rate` measures itself, in operations a
    second of this name; the others are measured by their time.  `cost` says that the row measures
    the cost of a trap and is not a program.  `output` is the standard output if it does not
    depend on the versions of the packages; otherwise the native one must be the guests' too.
    """

    name: str
    group: str
    label: str
    size: int
    quick: int
    rate: str = ""
    cost: bool = False
    output: str = ""


GROUPS: Final = (
    Group("base", (*_BASE, "diffutils", "findutils", "openssl", "perl", "sqlite3", "xz-utils",
                   "zstd", "esbuild")),
    Group("python", (*_BASE, "python3", "libpython3.11-testsuite")),
    Group("node", (*_BASE, "nodejs")),
    Group("java", (*_BASE, "openjdk-17-jdk-headless")),
    Group("gcc", (*_BASE, "gcc", "libc6-dev", "make")),
)  # fmt: skip

_PASSED: Final = "== Tests result: SUCCESS ==\n"
SYSCALL_ROW: Final = "getppid"
FAULT_ROW: Final = "fault"

ROWS: Final = (
    Row(SYSCALL_ROW, "base", "null system call", 2000000, 200000, "calls/s", cost=True),
    Row(FAULT_ROW, "base", "page fault, new memory", 100000, 20000, "faults/s", cost=True),
    Row("json", "python", "CPython test_json", 1, 1, output=_PASSED),
    Row("re", "python", "CPython test_re", 1, 1, output=_PASSED),
    Row("subprocess", "python", "CPython test_subprocess", 1, 1, output=_PASSED),
    Row("start", "python", "python3, starts and imports", 10, 2),
    Row("loop", "python", "python3, loop of sum(i*i%7)", 20, 2),
    Row("node", "node", "node, CPU work", 6, 1),
    Row("objects", "node", "node, 3 million objects", 3, 1),
    Row("javac", "java", "javac, small file", 1, 1),
    Row("java", "java", "Java program", 6, 1),
    Row("gcc", "gcc", "gcc -O2, 400 functions", 400, 40),
    Row("make", "gcc", "make of a C project", 1, 1),
    Row("go", "base", "Go program: esbuild", 1000, 100),
    Row("perl", "base", "perl program", 3, 1),
    Row("sqlite", "base", "sqlite in memory", 200000, 20000),
    Row("xz", "base", "xz and back, 2 MiB", 2, 1),
    Row("zstd", "base", "zstd -9 and back, 16 MiB", 16, 2),
    Row("rsa", "base", "openssl RSA-2048", 1, 1, "signs/s", output="Verified OK\n"),
    Row("p256", "base", "openssl P-256", 1, 1, "signs/s", output="Verified OK\n"),
    Row("aes", "base", "openssl AES-128-GCM, 16 KiB", 1, 1, "blocks/s"),
    Row("sha256", "base", "openssl SHA-256, 16 KiB", 1, 1, "blocks/s"),
    Row("dd", "base", "dd, blocks of 4 KiB", 50, 10),
    Row("find", "base", "find in /usr", 10, 1),
    Row("processes", "base", "300 short processes", 300, 30),
    Row("shell", "base", "shell script", 30, 3),
)


def chosen(names: Sequence[str]) -> list[Row]:
    """Return the rows with these names, in the table's order; without names, all.

    Raises ConfigError.
    """
    known = [row.name for row in ROWS]
    for name in names:
        if name not in known:
            raise ConfigError(f"no row {name!r}; choose from {', '.join(known)}")
    return [row for row in ROWS if row.name in (names or known)]


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Return the groups that `rows` are in."""
    names = {row.group for row in rows}
    return [group for group in GROUPS if group.name in names]


def plan(rows: Iterable[Row], *, quick: bool) -> str:
    """Return the driver's argument that names `rows` with their sizes."""
    return ",".join(f"{row.name}:{row.quick if quick else row.size}" for row in rows)


def fnv(data: bytes) -> str:
    """Return the 64-bit FNV-1a hash in hexadecimal, as the driver prints it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return f"{value:x}"
