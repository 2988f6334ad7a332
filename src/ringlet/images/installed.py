"""The modules of a kernel that is installed on this host, or built and installed beside its file.

Their lists are those that depmod has made.  A guest gets what its initial RAM disk needs.
"""

from pathlib import Path
from typing import Final

from ringlet.errors import ImageError
from ringlet.images.arguments import kernel_release
from ringlet.images.modules import LARGEST, Module, Modules, name_of

LIBRARIES: Final = (Path("/lib/modules"), Path("/usr/lib/modules"))
"""Directories in which distributions install modules, below the kernel's release."""
_DEPENDENCIES: Final = "modules.dep"
_LONGEST_LIST: Final = 64 << 20


def installed_modules(
    kernel: Path, libraries: tuple[Path, ...] = LIBRARIES
) -> "InstalledModules | None":
    """Return the modules of the bzImage `kernel`, or None if none are there for its release.

    `make modules_install INSTALL_MOD_PATH=DIRECTORY` puts them beside a kernel of that directory.
    Raises ImageError if they cannot be read.
    """
    release = kernel_release(kernel)
    if not release:
        return None
    above = kernel.resolve().parent
    places = [above / "lib/modules" / release, *(library / release for library in libraries)]
    for place in places:
        if (place / _DEPENDENCIES).is_file():
            return InstalledModules(place, release)
    return None


class InstalledModules(Modules):
    """The modules of the kernel `release` in a directory.  Raises ImageError."""

    def has(self, name: str) -> bool:
        """Return whether the module `name` is there or is built into the kernel."""
        return bool(self._called(name)) or name in self._built_in

    def _read(self, source: Path) -> None:
        self._directory = source
        self._built_in = {name_of(path) for path in self._lines("modules.builtin")}
        aliases: dict[str, list[str]] = {}
        soft: dict[str, list[str]] = {}
        for line in self._lines("modules.alias"):
            words = line.split()
            if len(words) == 3 and words[0] == "alias":
                aliases.setdefault(name_of(words[2]), []).append(words[1])
        for line in self._lines("modules.softdep"):
            words = line.split(maxsplit=2)
            if len(words) == 3 and words[0] == "softdep":
                soft.setdefault(name_of(words[1]), []).append(words[2])
        for line in self._lines(_DEPENDENCIES):
            path, found, needs = line.partition(":")
            name = name_of(path)
            if found:
                # modprobe loads them from the last to the first.
                depends = tuple(name_of(need) for need in reversed(needs.split()))
                self._found[name] = Module(
                    path, depends, tuple(aliases.get(name, ())), tuple(soft.get(name, ()))
                )

    def _content(self, path: str) -> bytes:
        return self._file(path, LARGEST)

    def _lines(self, name: str) -> list[str]:
        return self._file(name, _LONGEST_LIST).decode(errors="replace").splitlines()

    def _file(self, name: str, longest: int) -> bytes:
        try:
            with (self._directory / name).open("rb") as file:
                data = file.read(longest + 1)
        except FileNotFoundError:
            if name == _DEPENDENCIES or name.startswith("kernel/"):
                raise ImageError(f"{self._directory / name}: no such file; run depmod") from None
            return b""
        except OSError as error:
            raise ImageError(f"{self._directory / name}: {error.strerror}") from error
        if len(data) > longest:
            raise ImageError(f"{self._directory / name}: is larger than {longest >> 20} MiB")
        return data
