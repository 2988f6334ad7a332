"""Bits of CR0, CR4, IA32_EFER and XCR0 by name; `control_bits.pxd` defines them."""
