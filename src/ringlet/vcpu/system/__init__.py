"""Sensitive instructions, and the registers, tables and memory that they work on."""
