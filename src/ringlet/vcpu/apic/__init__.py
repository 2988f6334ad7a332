"""The local APIC and its timer."""
