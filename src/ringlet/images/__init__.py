"""Kernels and tools fetched from Debian, and initial RAM disks made from them."""
