"""Ringlet's own benchmarks: `ringlet bench cpu|nano|linux|programs|translate`.

The programs are C and assembly in `programs/`, built with the host's gcc when they are first run
(`toolchain`).  `engines` runs a program under an engine, `output` parses what it prints, `rounds`
interleaves rounds over the engines and compares them, and `report` shows the comparison.  `kernel`
fetches a Debian kernel, and `translation` measures the translator on the kernel's text.  `debian`
measures programs of Debian.
"""
