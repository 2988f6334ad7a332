"""Devices, one chip a file.  None knows the processor; each gets its lines, backend and clock."""
