"""All guest addresses that Ringlet chooses.

The bare machine (guest physical = linear, for the first 4 GiB):

    0x0000_0000  not used by the loader, so that a null pointer does not hit its tables
    0x0000_1000  GDT: null, 64-bit code (selector 08h), data (selector 10h)
    0x0000_2000  PML4
    0x0000_3000  page directory pointer table
    0x0000_4000  four page directories of 2 MiB pages: 0 to 4 GiB, identity
    0x0000_8000  end of the loader's tables
    0x0001_0000  stack, lowest byte
    0x0009_0000  stack, top: RSP at entry
    0x0010_0000  first address where a program may be loaded
    ...          end of RAM (--memory)

A PC that starts Linux by a boot protocol (`ringlet.machine.linux`) has the same tables (its 32-bit
protocol needs the GDT only) and stack, and:

    0x0000_0400  two words that firmware leaves: where the EBDA is, and how much memory below it
    0x0000_0500  for kernels that are loaded below 1 MiB, coreboot's table
    0x0000_1000  GDT: null, null, 64-bit code (selector 10h), data (selector 18h)
    0x0000_8000  boot_params, the "zero page"; for other kernels, what Multiboot or PVH tell them
    0x0002_0000  command line, at most 64 KiB
    0x0009_0000  for kernels that are loaded below, what Multiboot tells them
    0x0009_FC00  1 KiB that firmware would use (EBDA); reserved in the E820 map
    0x000A_0000  video memory and option ROMs on a real PC; empty here
    0x000E_0000  ACPI tables, the RSDP first; reserved in the E820 map
    0x000F_0000  the PCI interrupt routing table; reserved as well
    0x0010_0000  RAM again; the kernel goes where it prefers, usually to 16 MiB
    ...          the initial RAM disk, up to the end of RAM or the kernel's limit for it
    0xC000_0000  the highest end of the low RAM; BARs of PCI functions
    0xFEC0_0000  I/O APIC
    0xFEE0_0000  local APIC
    0x1_0000_0000  the rest of RAM

Port addresses are those of an IBM PC/AT, except PORT_PM, which is not fixed on PCs: the guest may
move it, as any BAR.
"""

from typing import Final

# --- the bare machine's low memory
GDT: Final = 0x1000
PML4: Final = 0x2000
PDPT: Final = 0x3000
PAGE_DIRECTORIES: Final = 0x4000
PAGE_DIRECTORY_COUNT: Final = 4
TABLES_END: Final = PAGE_DIRECTORIES + PAGE_DIRECTORY_COUNT * 0x1000
STACK_BOTTOM: Final = 0x10000
STACK_TOP: Final = 0x90000
PROGRAM_START: Final = 0x100000

CODE_SELECTOR: Final = 0x08

# --- a PC that starts Linux
BOOT_PARAMS: Final = 0x8000
BOOT_INFO: Final = 0x8000
BOOT_INFO_END: Final = 0x20000
COMMAND_LINE: Final = 0x20000
COMMAND_LINE_END: Final = 0x30000
EBDA_SEGMENT: Final = 0x40E
BASE_MEMORY: Final = 0x413
COREBOOT_TABLE: Final = 0x500
LOW_KERNEL: Final = 0x2000
LOW_KERNEL_END: Final = 0x80000  # the stack is above
LOW_KERNEL_INFO: Final = STACK_TOP
LOW_KERNEL_COMMAND_LINE: Final = 0x9E000
LOW_RAM_END: Final = 0x9FC00
VIDEO_MEMORY: Final = 0xA0000
FIRMWARE: Final = 0xE0000
PCI_ROUTING_TABLE: Final = 0xF0000
HIGH_RAM: Final = 0x100000
DEVICE_HOLE: Final = 0xC000_0000
LINUX_CODE_SELECTOR: Final = 0x10

# --- the PC's devices in memory
DEVICE_HOLE_END: Final = 0xFEC0_0000
IO_APIC: Final = 0xFEC0_0000
IO_APIC_SIZE: Final = 0x1000
LOCAL_APIC: Final = 0xFEE0_0000
LOCAL_APIC_SIZE: Final = 0x1000
REST_OF_RAM: Final = 0x1_0000_0000

# --- ports
PORT_PIC_MASTER: Final = 0x20
PORT_PIT: Final = 0x40
PORT_KEYBOARD_DATA: Final = 0x60
PORT_B: Final = 0x61
PORT_KEYBOARD_COMMAND: Final = 0x64
PORT_RTC: Final = 0x70
PORT_A: Final = 0x92
PORT_PIC_SLAVE: Final = 0xA0
PORT_DEBUG_EXIT: Final = 0xF4
PORT_COM4: Final = 0x2E8
PORT_COM2: Final = 0x2F8
PORT_COM3: Final = 0x3E8
PORT_COM1: Final = 0x3F8
PORT_ELCR: Final = 0x4D0
PORT_PM: Final = 0x600
PORT_PCI_CONFIG: Final = 0xCF8
PORT_RESET: Final = 0xCF9  # within the ports of the PCI host bridge
PORT_PCI_DEVICES: Final = 0xC000  # for BARs of PCI functions
PORT_PCI_DEVICES_END: Final = 0x1_0000

# --- inputs of the 8259 pair
IRQ_TIMER: Final = 0
IRQ_KEYBOARD: Final = 1
IRQ_COM2: Final = 3
IRQ_COM1: Final = 4
IRQ_RTC: Final = 8
IRQ_SCI: Final = 9
IRQ_MOUSE: Final = 12

# --- inputs of the I/O APIC: those of the 8259 pair, except the timer's, and those of PCI
GSI_TIMER: Final = 2
GSI_PCI: Final = 16

# --- PCI
SLOT_PIIX3: Final = 1
SLOT_DEVICES: Final = 2
"""The first slot for devices of the user."""
IRQS_PCI: Final = (10, 10, 11, 11)
"""The inputs of the 8259 pair for PIRQA# to PIRQD#, which firmware would choose."""


def pirq(slot: int, pin: int) -> int:
    """Return which of PIRQA# to PIRQD# (0 to 3) has pin `pin` (1 is INTA#) of a PCI slot."""
    return (slot + pin - 2) % 4


def pci_gsi(slot: int, pin: int) -> int:
    """Return the I/O APIC's input for interrupt pin `pin` (1 is INTA#) of a PCI slot."""
    return GSI_PCI + pirq(slot, pin)
