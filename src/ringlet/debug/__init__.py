"""Debuggers of the guest: the remote protocol of gdb."""
