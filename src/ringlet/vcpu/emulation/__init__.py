"""Emulation of single instructions, by families; `emulator` is the entry point."""
