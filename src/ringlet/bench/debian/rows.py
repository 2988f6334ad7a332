"""The rows of `ringlet bench programs` and `ringlet bench io`, and the groups that share a guest.

A group has an image of its own, because one with all packages would need too much guest RAM.  All
groups take their packages from the same release of Debian.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ringlet.errors import ConfigError

# What every row's script needs.
_BASE: Final = ("base-files", "coreutils", "dash", "libc-bin", "mawk", "sed", "grep")
_GCC: Final = (*_BASE, "gcc", "libc6-dev", "make")

DISK, NETWORK, SHARE = "disk", "network", "share"


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share an image: the Debian packages in it, without those that they depend on.

    `left_out` are patterns of files that the rows do not need.  `devices` are those of
    `ringlet.bench.devices.Devices` that the rows use.  The guest of a group with `alone` runs a
    single row, so that no row finds what another has left in the caches of guest and host.
    """

    name: str
    packages: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    devices: frozenset[str] = frozenset()
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A program: its script is `rows/NAME.sh`, which finds its size in N.

    `quick` is the size for a short run.  A row with a `rate` measures itself, in operations a
    second of this name (for MB/s and Gbit/s in bytes and bits); the others are measured by their
    time.  `cost` says that the row measures the cost of a trap and is not a program.  `output` is
    the standard output if it does not depend on the versions of the packages; otherwise the native
    one must be the guests' too.
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
    Group("gcc", _GCC),
    Group("servers", (*_BASE, "redis-server", "redis-tools", "nginx", "wrk", "busybox-static")),
    Group("postgres", (*_BASE, "postgresql-15", "util-linux"),
          left_out=("./usr/lib/*/libLLVM*", "./usr/lib/postgresql/15/lib/bitcode")),
    Group("make", (*_GCC, "e2fsprogs", "busybox-static"), devices=frozenset({DISK}), alone=True),
    Group("disk", (*_BASE, "fio", "busybox-static"), devices=frozenset({DISK}), alone=True),
    Group("network", (*_BASE, "iperf3", "busybox-static"), devices=frozenset({NETWORK})),
    Group("share", (*_GCC, "git", "busybox-static"), devices=frozenset({SHARE})),
)  # fmt: skip

SOURCES: Final = Group("sources", ("golang-1.19-src",))
"""The files of the shared directory, which no guest has in its image."""

_PASSED: Final = "== Tests result: SUCCESS ==\n"
_RIGHT: Final = "right\n"
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
    Row("redis", "servers", "redis, redis-benchmark", 50000, 5000, "requests/s", output=_RIGHT),
    Row("nginx", "servers", "nginx, wrk, 4 KiB", 5, 1, "requests/s", output=_RIGHT),
    Row("pgbench", "postgres", "PostgreSQL, pgbench", 5, 1, "transactions/s", output=_RIGHT),
    Row("disk-make", "make", "make on an ext4 disk", 1, 1),
)

IO_ROWS: Final = (
    Row("disk-write", "disk", "disk, write of 1 MiB, fsync at the end", 1024, 64, "MB/s"),
    Row("disk-read", "disk", "disk, read of 1 MiB", 1024, 64, "MB/s"),
    Row("disk-random", "disk", "disk, random read of 4 KiB", 5, 1, "/s"),
    Row("disk-queue", "disk", "disk, random read of 4 KiB, 32 at once", 5, 1, "/s"),
    Row("disk-fsync", "disk", "disk, random write of 4 KiB, fsync each", 5, 1, "/s"),
    Row("disk-verify-4k", "disk", "disk, random 4 KiB verified", 128, 16, output=_RIGHT),
    Row("disk-verify-1m", "disk", "disk, 1 MiB verified", 256, 64, output=_RIGHT),
    Row("net-out", "network", "network, from the guest", 5, 1, "Gbit/s"),
    Row("net-in", "network", "network, to the guest", 5, 1, "Gbit/s"),
    Row("share-status", "share", "share, git status, first", 1, 1),
    Row("share-again", "share", "share, git status, again", 1, 1),
    Row("share-make", "share", "share, make of a C project", 1, 1),
)


def chosen(names: Sequence[str], rows: Sequence[Row] = ROWS) -> list[Row]:
    """Return those of `rows` with these names, in the table's order; without names, all.

    Raises ConfigError.
    """
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise ConfigError(f"no row {name!r}; choose from {', '.join(known)}")
    return [row for row in rows if row.name in (names or known)]


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Return the groups that `rows` are in."""
    names = {row.group for row in rows}
    return [group for group in GROUPS if group.name in names]


def plan(rows: Iterable[Row], *, quick: bool, port: int = 0) -> str:
    """Return the driver's argument that names `rows` with their sizes, and a port if not 0."""
    rest = f":{port}" if port else ""
    return ",".join(f"{row.name}:{row.quick if quick else row.size}{rest}" for row in rows)


def fnv(data: bytes) -> str:
    """Return the 64-bit FNV-1a hash in hexadecimal, as the driver prints it."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return f"{value:x}"
