"""Runs the host's apt-get without root, with its state, cache and lists in Ringlet's directory.

apt verifies what it fetches: the lists by Debian's signing keys, a package by the SHA-256 in the
lists.  The host's own settings (a proxy, for example) apply, but not its hooks, which may need
root.  The keys come with Ringlet, because only hosts that run Debian have them.
"""

import errno
import importlib.resources
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.release import AMD64, DEFAULT, Release
from ringlet.images.store import explain, free_space, has_room_for_files
from ringlet.images.tools import output

OS_RELEASE: Final = Path("/etc/os-release")
SOURCES: Final = "RINGLET_APT_SOURCES"
"""The environment variable with the path of a file of sources to use instead of all others."""
OTHERWISE: Final = ", or use a kernel of your own"
LISTS_AGE_S: Final = 24 * 3600
"""The age up to which package lists count as new."""
_TIMEOUT_S: Final = 900

# For hosts whose own sources do not have the guest's packages.
_SOURCES: Final = """\
Types: deb
URIs: http://deb.debian.org/debian
Suites: {codename} {codename}-updates
Components: main
Signed-By:{keys}

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: {codename}-security
Components: main
Signed-By:{keys}
"""
# The host's choices among its own releases would hide or refuse the packages of another one.
_OWN_SOURCES: Final = """\
Dir::Etc::sourcelist "{root}/debian.sources";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Default-Release "";
"""
_CONFIGURATION: Final = """\
Dir::State "{root}/state";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::PDiffs "false";
{sources}"""
# Only the package lists of a repository are fetched, not its descriptions, icons and contents.
_ONLY_PACKAGES: Final = re.compile(
    r'^Acquire::IndexTargets::deb::([\w-]+)::MetaKey "', re.MULTILINE
)

_FIELD: Final = re.compile(r"^([A-Za-z0-9-]+): (.*)$", re.MULTILINE)
_INSTALLED: Final = re.compile(r"^Inst (\S+) ", re.MULTILINE)
_ERROR: Final = re.compile(r"^[EW]: (.*)$", re.MULTILINE)
_FETCH: Final = re.compile(r"^Failed to fetch (\S+) +(.*)$")
_NO_NETWORK: Final = re.compile(
    r"resolv|Could not connect|Cannot initiate|Connection (failed|refused|timed out)|unreachable"
)
_NO_ROOM: Final = "No space left on device"


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a package, and the size of its file in bytes."""

    name: str
    size: int


class Apt:
    """Packages of a release of Debian, fetched with a private apt whose files are below `root`.

    The packages come from the host's sources if the host runs that release and they are for amd64,
    else from Debian's own server.  `sources`, the text of a file such as
    /etc/apt/sources.list.d/debian.sources, replaces both; without it, so does the file that the
    environment variable RINGLET_APT_SOURCES names.  `otherwise` ends the advice in messages.  The
    methods raise ImageError.
    """

    def __init__(
        self,
        root: Path,
        release: Release = DEFAULT,
        *,
        sources: str = "",
        otherwise: str = OTHERWISE,
        os_release: Path = OS_RELEASE,
    ) -> None:
        self.release = release
        self._root = root
        self._sources = sources
        self._otherwise = otherwise
        self._os_release = os_release
        self._config = root / "apt.conf"
        self._list = root / "debian.sources"

    def prepare(self) -> None:
        """Create the directories and the configuration."""
        if '"' in str(self._root) or "\n" in str(self._root):
            raise ImageError(
                f"{str(self._root)!r}: apt cannot use a directory with this name; "
                "set XDG_CACHE_HOME to another directory"
            )
        sources = self._sources or _sources_of_the_user()
        own = self.release.architecture == AMD64 and runs(self.release, self._os_release)
        if not sources and not own:
            sources = _SOURCES.format(codename=self.release.codename, keys=_keys())
        try:
            for directory in ("state/lists/partial", "cache/archives/partial"):
                (self._root / directory).mkdir(parents=True, exist_ok=True)
            (self._root / "status").touch()
            self._list.write_text(sources, encoding="utf-8")
            text = _OWN_SOURCES.format(root=self._root) if sources else ""
            text = _CONFIGURATION.format(
                root=self._root, architecture=self.release.architecture, sources=text
            )
            self._config.write_text(text + self._without_other_lists(), encoding="utf-8")
        except OSError as error:
            raise explain(error, self._root.parent) from error

    def lists_are_new(self) -> bool:
        """Return whether the package lists were fetched within the last day."""
        try:
            age = time.time() - (self._root / "updated").stat().st_mtime
        except OSError:
            return False
        return 0 <= age < LISTS_AGE_S

    def update(self) -> None:
        """Fetch the package lists."""
        done = self._run(["apt-get", "update"])
        if done.returncode:
            raise self._failure("cannot fetch Debian's package lists", done.stderr)
        try:
            (self._root / "updated").touch()
        except OSError as error:
            raise explain(error, self._root.parent) from error

    def show(self, package: str) -> Mapping[str, str]:
        """Return the fields of the newest version of `package`; empty if apt does not know it."""
        done = self._run(["apt-cache", "show", "--no-all-versions", package])
        return dict(_FIELD.findall(done.stdout)) if done.returncode == 0 else {}

    def download(self, package: str, directory: Path) -> Path:
        """Fetch the newest version of `package` to `directory` and return the file's path."""
        done = self._run(["apt-get", "download", package], directory)
        found = sorted(directory.glob("*.deb"))
        if done.returncode or len(found) != 1:
            raise self._failure(f"cannot fetch {package}", done.stderr)
        # apt does not check a file that it copies from a directory, nor errors while copying.
        size = self.show(package).get("Size", "")
        lacks = (int(size) if size.isdecimal() else 0) - found[0].stat().st_size
        if lacks > 0:
            if free_space(directory) < lacks:
                raise explain(OSError(errno.ENOSPC, _NO_ROOM), self._root.parent)
            raise ImageError(f"cannot fetch {package}: its last {lacks} bytes are missing")
        return found[0]

    def closure(self, packages: Sequence[str]) -> dict[str, Version]:
        """Return the newest versions of `packages` and of all that they depend on."""
        command = ["apt-get", "install", "--simulate", "--no-install-recommends", *packages]
        done = self._run(command)
        if done.returncode:
            raise self._failure(f"cannot find {packages[0]} and the like", done.stderr)
        names = _INSTALLED.findall(done.stdout)
        shown = self._run(["apt-cache", "show", "--no-all-versions", *names]).stdout
        fields = [dict(_FIELD.findall(stanza)) for stanza in shown.split("\n\n")]
        return {
            field["Package"]: Version(field["Version"], int(field["Size"]))
            for field in fields
            if {"Package", "Version", "Size"} <= field.keys()
        }

    def download_all(self, packages: Mapping[str, Version], directory: Path) -> list[Path]:
        """Fetch `packages` to `directory`, which is empty, and return the files' paths."""
        done = self._run(["apt-get", "download", *packages], directory)
        found = sorted(directory.glob("*.deb"))
        lacking = sum(version.size for version in packages.values())
        lacking -= sum(path.stat().st_size for path in found)
        if done.returncode or len(found) != len(packages):
            raise self._failure(f"cannot fetch {len(packages)} packages", done.stderr)
        if lacking:
            raise ImageError(f"cannot fetch {len(packages)} packages: {lacking} bytes are missing")
        return found

    # --- inside

    def _without_other_lists(self) -> str:
        done = output(["apt-config", "dump"], _TIMEOUT_S, environment=_environment())
        names = set(_ONLY_PACKAGES.findall(done.stdout)) - {"Packages"}
        form = 'Acquire::IndexTargets::deb::{}::DefaultEnabled "false";\n'
        return "".join(form.format(name) for name in sorted(names))

    def _run(
        self, command: Sequence[str], directory: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        name, *arguments = command
        try:
            return output(
                [name, "-q", "-c", str(self._config), *arguments],
                _TIMEOUT_S,
                directory=directory,
                environment=_environment(),
            )
        except subprocess.TimeoutExpired:
            raise ImageError(f"{name} did not finish within {_TIMEOUT_S // 60} minutes") from None
        except OSError as error:
            raise ImageError(f"cannot run {name}: {error.strerror}") from error

    def _failure(self, what: str, output: str) -> ImageError:
        lines = _ERROR.findall(output)
        reason = lines[0] if lines else "apt-get gave no reason"
        fetch = _FETCH.match(reason)
        reason = fetch[2] if fetch else reason
        # apt-get gives no reason if it cannot even create a package's file.
        if _NO_ROOM in output or (not lines and not has_room_for_files(self._root)):
            return explain(OSError(errno.ENOSPC, _NO_ROOM), self._root.parent)
        if _NO_NETWORK.search(output):
            return ImageError(
                f"{what}: the network does not reach Debian ({reason}); connect this host to the "
                f"network once, or name a mirror's sources in {SOURCES}{self._otherwise}"
            )
        given = "" if self._sources else os.environ.get(SOURCES, "")
        if given and str(self._list) in reason:
            reason = reason.replace(str(self._list), given)
            return ImageError(f"{what}: {reason}; name another file in {SOURCES}")
        return ImageError(f"{what}: {reason}")


def is_installed() -> bool:
    """Return whether the host has apt's tools."""
    return all(map(shutil.which, ("apt-get", "apt-cache", "apt-config")))


def runs(release: Release, os_release: Path = OS_RELEASE) -> bool:
    """Return whether the host runs `release`, so that its own sources have the packages of it."""
    try:
        lines = os_release.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("ID", "").strip("\"'") == "debian" and (
        fields.get("VERSION_ID", "").strip("\"'") == release.number
    )


def _sources_of_the_user() -> str:
    path = os.environ.get(SOURCES, "")
    if not path:
        return ""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not text"
        raise ImageError(f"{SOURCES}: {path}: cannot be read: {reason}") from error
    if not text.strip():
        raise ImageError(f"{SOURCES}: {path}: is empty; give a file of sources for apt")
    return text


def _keys() -> str:
    """Return Debian's keys as the value of a field, in which a dot stands for an empty line."""
    keys = importlib.resources.files("ringlet.images").joinpath("debian-keys.asc")
    lines = keys.read_text(encoding="ascii").splitlines()
    return "".join(f"\n {line or '.'}" for line in lines)


def _environment() -> dict[str, str]:
    """Return this process's environment, changed so that apt's messages are in English."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "", "DEBIAN_FRONTEND": "noninteractive"}
