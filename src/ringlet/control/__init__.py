"""Machines under a program's control."""
