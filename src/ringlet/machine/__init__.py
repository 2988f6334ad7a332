"""Machines: a processor, a bus and devices, wired, loaded and run."""
