"""Ringlet: full virtualization of x86 in user space, driven from Python."""

__version__ = "0.1.0"
