"""Opens a disk as the user described it."""

from ringlet.devices.backends.disks.chain import opened_image
from ringlet.devices.backends.disks.engine import start_engine
from ringlet.devices.backends.disks.engine_disk import EngineDisk
from ringlet.devices.backends.disks.image_file import identity_of, open_image
from ringlet.devices.backends.disks.interface import Disk, Trouble
from ringlet.devices.backends.disks.overlay import Overlay
from ringlet.devices.backends.disks.raw import RawDisk
from ringlet.devices.backends.disks.scratch import create_scratch
from ringlet.disk_spec import Access, DiskSpec, Format


def open_disk(spec: DiskSpec, trouble: Trouble) -> Disk:
    """Return the disk that `spec` describes.  Raises DiskError or HostError.

    `trouble` is called with a line for the user when something goes wrong later, from any thread.
    """
    disk = _open_image(spec, trouble, read_only=spec.access is not Access.WRITE)
    if spec.access is not Access.SNAPSHOT:
        return disk
    try:
        return Overlay(disk, create_scratch(spec.path, disk.size, trouble), trouble)
    except BaseException:
        disk.close()
        raise


def _open_image(spec: DiskSpec, trouble: Trouble, *, read_only: bool) -> Disk:
    with opened_image(spec.path, spec.format, spec.below) as image:
        if image.info.format is Format.QCOW2:
            engine = start_engine(image, read_only=read_only)
            name = identity_of(spec.path)
            return EngineDisk(engine, spec.path, name, trouble, read_only=read_only)
    file = open_image(spec.path, read_only=read_only, trouble=trouble)
    return RawDisk(file, trouble, guarded=spec.format is None)
