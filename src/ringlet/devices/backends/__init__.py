"""Backends: connect the data of devices to the host."""
