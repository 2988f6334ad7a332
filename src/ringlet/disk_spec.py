"""What `--disk FILE[,ro|,snapshot][,format=raw|qcow2]` says.

A comma in the name of a file is written twice, as for QEMU.
"""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError

FLAG: Final = "--disk"
_FORM: Final = "give FILE[,ro|,snapshot][,format=raw|qcow2]"


class Access(enum.Enum):
    """What may become of the image."""

    WRITE = "write"
    """The guest's writes are written to the image."""
    READ_ONLY = "ro"
    """The guest sees a disk that it cannot write."""
    SNAPSHOT = "snapshot"
    """The guest's writes go to a temporary file, which disappears with the run."""


class Format(enum.Enum):
    """How an image file is laid out."""

    RAW = "raw"
    QCOW2 = "qcow2"


class Below(enum.Enum):
    """Which images a qcow2 image may stand on: the guest sees what is in them."""

    NONE = "none"
    """None.  Images of the store are complete."""
    BESIDE = "beside"
    """Files of the same directory, if the image's own name ends in .qcow2."""
    ANY = "any"
    """Any file of this host: the user trusts the image."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk as the user described it.  `format` is None if the user did not say it.

    `below` says how far the image is trusted.
    """

    path: Path
    access: Access = Access.WRITE
    format: Format | None = None
    below: Below = Below.BESIDE


def parse_disk(text: str, name: str = FLAG) -> DiskSpec:
    """Return what `text` says.  Raises ConfigError, which calls the option `name`."""
    if "\0" in text:
        raise ConfigError(f"{name} {text!r}: the name of a file has no NUL; {_FORM}")
    file, *words = (part.replace("\0", ",") for part in text.replace(",,", "\0").split(","))
    if not file:
        raise ConfigError(f"{name} {text!r}: no file; {_FORM}")
    access: Access | None = None
    layout: Format | None = None
    for word in words:
        key, _, value = word.partition("=")
        if word in ("ro", "snapshot") and access is None:
            access = Access(word)
        elif key == "format" and layout is None and value in ("raw", "qcow2"):
            layout = Format(value)
        else:
            raise ConfigError(
                f"{name} {text}: {word!r} is not known here; {_FORM}, "
                "and write a comma of the file's name twice"
            )
    try:
        path = Path(file).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name} {text}: {error}; write the directory instead of ~") from None
    below = Below.BESIDE if layout is None else Below.ANY
    return DiskSpec(path, access or Access.WRITE, layout, below)
