"""Disks of the host: images that are raw or qcow2, and temporary files over them."""

from ringlet.devices.backends.disks.chain import ImageInfo, describe_image
from ringlet.devices.backends.disks.create import create_image
from ringlet.devices.backends.disks.interface import Disk, Operation, Request, Trouble
from ringlet.devices.backends.disks.opening import open_disk

__all__ = [
    "Disk",
    "ImageInfo",
    "Operation",
    "Request",
    "Trouble",
    "create_image",
    "describe_image",
    "open_disk",
]
