"""Ringlet's own benchmarks: `ringlet bench cpu|nano|linux|translate`.

The programs are C and assembly in `programs/`, built with the host's gcc when they are first run
(`toolchain`).  An engine runs one of them (`engines`), its output is parsed (`output`), rounds are
interleaved over the engines and compared (`rounds`), and shown (`report`).  `kernel` fetches a
Debian kernel and `translation` measures the translator over its text.
"""
