"""The head of a qcow2 image (QEMU's docs/interop/qcow2.txt); the engine reads all the rest."""

from typing import Final

MAGIC: Final = b"QFI\xfb"
