"""The Python interface: machines that a program controls."""
