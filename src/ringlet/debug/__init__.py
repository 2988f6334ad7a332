"""Debugging a guest: gdb's remote protocol, traces, and comparison with another processor."""
