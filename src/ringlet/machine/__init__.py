"""Machines: wires, loads and runs a processor, buses and devices."""
