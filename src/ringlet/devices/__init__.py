"""Devices, one chip per file.  Devices get lines, backends and a clock, not the processor."""
