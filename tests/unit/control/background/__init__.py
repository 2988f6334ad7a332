"""Tests of machines with names, which need no guest."""
