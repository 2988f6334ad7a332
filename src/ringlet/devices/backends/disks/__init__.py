"""Disks of the host: images that are raw or qcow2, and temporary files over them."""

from ringlet.devices.backends.disks.interface import Disk, Operation, Request, Trouble
from ringlet.devices.backends.disks.opening import open_disk

__all__ = ["Disk", "Operation", "Request", "Trouble", "open_disk"]
