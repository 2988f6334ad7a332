"""Debug registers, single steps, and stops for a debugger outside the guest."""
