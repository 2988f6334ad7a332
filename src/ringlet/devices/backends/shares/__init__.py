"""Directories of the host for guests: a FUSE server, whose requests virtio-fs carries."""

from ringlet.devices.backends.shares.server import FileServer
from ringlet.devices.backends.shares.state import ShareState

__all__ = ["FileServer", "ShareState"]
