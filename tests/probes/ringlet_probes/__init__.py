"""Compiled probes of the virtual MMU and the virtual processor, for tests and measurements."""
