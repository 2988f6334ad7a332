"""Opens a disk as the user described it."""

from ringlet.devices.backends.disks.image_file import open_image
from ringlet.devices.backends.disks.interface import Disk, Trouble
from ringlet.devices.backends.disks.raw import RawDisk
from ringlet.disk_spec import Access, DiskSpec, Format
from ringlet.errors import DiskError


def open_disk(spec: DiskSpec, trouble: Trouble) -> Disk:
    """Return the disk that `spec` describes.  Raises DiskError.

    `trouble` is called with a line for the user when something goes wrong later, from any thread.
    """
    if spec.format is Format.QCOW2 or spec.access is Access.SNAPSHOT:
        raise DiskError(f"disk {spec.path}: only raw images without snapshot can be used so far")
    read_only = spec.access is Access.READ_ONLY
    image = open_image(spec.path, read_only=read_only, trouble=trouble)
    return RawDisk(image, trouble, guarded=spec.format is None)
