"""Machines with a name: what other processes see of them, and how they reach their agent."""
