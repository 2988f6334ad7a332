"""The ACPI tables, read by the test's own reader, and by ACPICA if it is installed."""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringlet.devices import acpi_pm
from ringlet.devices.piix3 import PIRQRC
from ringlet.machine import acpi
from ringlet.machine import address_map as at
from ringlet.machine.dsdt import Platform
from tests.unit.machine.aml_reader import Value, read

LINKS = ("LNKA", "LNKB", "LNKC", "LNKD")
FULL = Platform(
    apic_ids=(0, 1), io_apic_id=2, keyboard=True, pci_memory_64=(1 << 36, (1 << 37) - 1)
)


@dataclass
class Tables:
    """The tables by their signatures, found as a guest finds them."""

    base: int
    image: bytes

    def bytes_at(self, address: int, size: int) -> bytes:
        offset = address - self.base
        assert 0 <= offset <= offset + size <= len(self.image)
        return self.image[offset : offset + size]

    def at(self, address: int) -> bytes:
        """Return the table at `address` after checking its checksum."""
        size: int = struct.unpack("<I", self.bytes_at(address + 4, 4))[0]
        table = self.bytes_at(address, size)
        assert sum(table) & 0xFF == 0
        return table

    def rsdp(self) -> bytes:
        rsdp = self.bytes_at(self.base, 36)
        assert rsdp[:8] == b"RSD PTR "
        assert sum(rsdp[:20]) & 0xFF == sum(rsdp) & 0xFF == 0
        return rsdp

    def find(self, signature: bytes) -> bytes:
        xsdt = self.at(struct.unpack_from("<Q", self.rsdp(), 24)[0])
        assert xsdt[:4] == b"XSDT"
        (found,) = [
            t for (a,) in struct.iter_unpack("<Q", xsdt[36:]) if (t := self.at(a))[:4] == signature
        ]
        return found

    def dsdt(self) -> bytes:
        return self.at(struct.unpack_from("<Q", self.find(b"FACP"), 140)[0])

    def facs(self) -> bytes:
        return self.bytes_at(struct.unpack_from("<I", self.find(b"FACP"), 36)[0], 64)


def tables(platform: Platform = FULL, base: int = at.FIRMWARE) -> Tables:
    built = acpi.build(platform, base)
    assert built.base == built.rsdp == base
    return Tables(base, built.image)


def names(platform: Platform = FULL) -> dict[str, Value | None]:
    return read(tables(platform).dsdt()[36:])


# --- the headers


def test_tables_fit_in_their_place() -> None:
    assert len(tables().image) <= at.HIGH_RAM - at.FIRMWARE


@pytest.mark.parametrize("base", [0xE0000, 0x7FFE_0000])
def test_tables_work_at_any_address(base: int) -> None:
    made = tables(base=base)

    assert made.find(b"FACP")[:4] == b"FACP"
    assert made.find(b"APIC")[:4] == b"APIC"
    assert made.dsdt()[:4] == b"DSDT"
    assert made.facs()[:4] == b"FACS"


def test_rsdt_and_xsdt_agree() -> None:
    made = tables()
    _, rsdt_at, length, xsdt_at = struct.unpack("<15sxIIQ4x", made.rsdp())
    rsdt, xsdt = made.at(rsdt_at), made.at(xsdt_at)

    assert length == 36
    assert made.rsdp()[15] == 2
    assert rsdt[:4] == b"RSDT"
    assert struct.unpack("<2I", rsdt[36:]) == struct.unpack("<2Q", xsdt[36:])


def test_facs_is_aligned_and_says_its_length() -> None:
    made = tables()
    address = struct.unpack_from("<I", made.find(b"FACP"), 36)[0]

    assert address % 64 == 0
    assert struct.unpack_from("<I", made.facs(), 4) == (64,)


# --- the FADT, by the offsets of table 5.9


def test_fadt_says_where_the_fixed_hardware_is() -> None:
    fadt = tables().find(b"FACP")

    assert len(fadt) == 276
    assert fadt[8] == 6
    assert struct.unpack_from("<8I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608, 0x60C, 0)
    assert tuple(fadt[88:94]) == (4, 2, 0, 4, 4, 0)


@pytest.mark.parametrize(
    ("offset", "space"),
    [
        (116, (1, 8, 0, 1, 0xCF9)),
        (148, (1, 32, 0, 2, 0x600)),
        (160, (0, 0, 0, 0, 0)),
        (172, (1, 16, 0, 2, 0x604)),
        (208, (1, 32, 0, 3, 0x608)),
        (220, (1, 32, 0, 1, 0x60C)),
        (244, (0, 0, 0, 0, 0)),
    ],
)
def test_fadts_generic_addresses(offset: int, space: tuple[int, ...]) -> None:
    assert struct.unpack_from("<4BQ", tables().find(b"FACP"), offset) == space


def test_fadt_has_no_smi_and_the_pcs_fixed_features() -> None:
    fadt = tables().find(b"FACP")
    sci, smi = struct.unpack_from("<HI", fadt, 46)
    flags = struct.unpack_from("<I", fadt, 112)[0]

    assert (sci, smi) == (9, 0)
    assert fadt[108] == 0x32
    assert fadt[128] == 0x06
    assert flags >> 8 & 1  # a 32-bit timer
    assert flags >> 10 & 1  # a reset register
    assert not flags >> 4 & 1  # a power button
    assert not flags >> 6 & 1  # the clock's alarm wakes by the fixed registers
    assert not flags >> 20 & 1  # not hardware-reduced


@pytest.mark.parametrize(("keyboard", "flags"), [(False, 0b101), (True, 0b111)])
def test_fadt_tells_of_the_keyboard_controller(keyboard: bool, flags: int) -> None:
    fadt = tables(Platform(keyboard=keyboard)).find(b"FACP")

    assert struct.unpack_from("<H", fadt, 109) == (flags,)


# --- the MADT


def test_madt_describes_the_interrupt_controllers() -> None:
    madt = tables().find(b"APIC")
    entries, offset = [], 44
    while offset < len(madt):
        entries.append(madt[offset : offset + madt[offset + 1]])
        offset += madt[offset + 1]

    assert offset == len(madt)
    assert struct.unpack_from("<II", madt, 36) == (0xFEE0_0000, 1)
    assert [struct.unpack("<BBBBI", e) for e in entries if e[0] == 0] == [
        (0, 8, 0, 0, 1),
        (0, 8, 1, 1, 1),
    ]
    assert [struct.unpack("<4BII", e) for e in entries if e[0] == 1] == [
        (1, 12, 2, 0, 0xFEC0_0000, 0)
    ]
    assert [struct.unpack("<4BIH", e) for e in entries if e[0] == 2] == [
        (2, 10, 0, 0, 2, 0),
        (2, 10, 0, 9, 9, 0xD),
    ]
    assert [struct.unpack("<BBBHB", e) for e in entries if e[0] == 4] == [(4, 6, 0xFF, 0, 1)]


# --- the DSDT


def test_soft_off_is_what_the_fixed_hardware_obeys() -> None:
    assert names()["\\_S5_"] == [acpi_pm.S5_TYPE, acpi_pm.S5_TYPE, 0, 0]


def test_devices_of_the_full_machine() -> None:
    devices = [path for path, value in names().items() if value is None]

    names_ = ("PCI0", "PCI0.ISA_", *LINKS, "MBRD", "COM1", "RTC_", "KBD_")
    assert devices == [f"\\_SB_.{name}" for name in names_]


def test_no_keyboard_unless_asked() -> None:
    assert "\\_SB_.KBD_" not in names(Platform())


def test_every_pin_of_every_slot_is_routed_to_the_io_apic() -> None:
    routes = names()["\\_SB_.PCI0.PRTA"]
    assert isinstance(routes, list)
    wanted = [
        [slot << 16 | 0xFFFF, pin, 0, at.pci_gsi(slot, pin + 1)]
        for slot in range(1, 32)
        for pin in range(4)
    ]

    assert routes == wanted
    assert {at.pci_gsi(slot, 1) for slot in range(1, 9)} == set(range(16, 20))


def test_every_pin_of_every_slot_is_routed_to_a_link_device() -> None:
    routes = names()["\\_SB_.PCI0.PRTP"]

    assert routes == [
        [slot << 16 | 0xFFFF, pin, LINKS[at.pirq(slot, pin + 1)], 0]
        for slot in range(1, 32)
        for pin in range(4)
    ]


def test_links_registers_are_those_of_the_piix3() -> None:
    found = names()

    assert found["\\_SB_.PCI0.ISA_._ADR"] == at.SLOT_PIIX3 << 16
    assert found["\\_SB_.PCI0.ISA_.PIRQ"] == [2, PIRQRC, 4]
    assert [found[f"\\_SB_.PCI0.ISA_.RQ{n}_"] for n in "ABCD"] == [8] * 4


def test_bridge_hands_on_no_memory_of_the_interrupt_controllers() -> None:
    assert at.DEVICE_HOLE < at.DEVICE_HOLE_END <= at.IO_APIC
    assert at.IO_APIC + at.IO_APIC_SIZE <= at.LOCAL_APIC


def test_64_bit_window_is_there_if_asked() -> None:
    with_window = names()["\\_SB_.PCI0._CRS"]
    without = names(Platform())["\\_SB_.PCI0._CRS"]
    assert isinstance(with_window, bytes)
    assert isinstance(without, bytes)

    assert len(with_window) - len(without) == 46


# --- ACPICA


@pytest.fixture(scope="module")
def iasl() -> str:
    found = shutil.which("iasl")
    if found is None:
        pytest.skip("iasl is not installed")
    return found


def run_iasl(iasl: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [iasl, *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout + done.stderr


def test_acpica_reads_the_dsdt_and_compiles_it_to_the_same(iasl: str, tmp_path: Path) -> None:
    dsdt = tables().dsdt()
    (tmp_path / "dsdt.aml").write_bytes(dsdt)
    run_iasl(iasl, tmp_path, "-d", "dsdt.aml")
    said = run_iasl(iasl, tmp_path, "-oa", "-p", "again", "dsdt.dsl")
    again = (tmp_path / "again.aml").read_bytes()

    assert "0 Errors, 0 Warnings" in said
    # The header names its compiler.
    assert again[36:] == dsdt[36:]


@pytest.mark.parametrize("signature", [b"FACP", b"APIC"])
def test_acpica_reads_the_tables(iasl: str, tmp_path: Path, signature: bytes) -> None:
    (tmp_path / "table.dat").write_bytes(tables().find(signature))
    said = run_iasl(iasl, tmp_path, "-d", "table.dat")
    listing = (tmp_path / "table.dsl").read_text()

    assert not any(word in (said + listing).lower() for word in ("error", "warning", "invalid"))


@pytest.fixture(scope="module")
def acpiexec() -> str:
    found = shutil.which("acpiexec")
    if found is None:
        pytest.skip("acpiexec is not installed")
    return found


def executed(acpiexec: str, folder: Path, *methods: str) -> str:
    """Return what ACPICA prints of these calls, one after the other; its registers hold memory."""
    (folder / "dsdt.aml").write_bytes(tables().dsdt())
    calls = ";".join(f"execute {method}" for method in methods)
    done = subprocess.run(
        [acpiexec, "-b", calls, "dsdt.aml"], cwd=folder, capture_output=True, text=True,
        check=True, timeout=60,
    )  # fmt: skip
    assert "AE_" not in done.stdout, done.stdout
    return done.stdout


def test_acpica_finds_the_routes_of_the_io_apic(acpiexec: str, tmp_path: Path) -> None:
    """Those of the other mode, which have references, are too large for acpiexec's buffer."""
    said = executed(acpiexec, tmp_path, "\\_PIC 1", "\\_SB.PCI0._PRT")
    source = said.split("Contains 4 Elements")[1].splitlines()[3]

    assert "[Integer] = 0000000000000000" in source


def test_acpica_moves_a_link_device(acpiexec: str, tmp_path: Path) -> None:
    """_SRS gets a descriptor of interrupt 5, which _CRS then returns; _DIS takes it away."""
    wanted = "(89 06 00 0D 01 05 00 00 00 79 00)"
    link = "\\_SB.LNKC"
    said = executed(
        acpiexec, tmp_path, f"{link}._SRS {wanted}", f"{link}._CRS", f"{link}._STA",
        f"{link}._DIS", f"{link}._CRS", f"{link}._STA",
    )  # fmt: skip
    flat = " ".join(said.split())

    assert "89 06 00 0D 01 05 00 00 00 79 00" in flat
    assert "89 06 00 0D 01 00 00 00 00 79 00" in flat
    assert flat.index("000000000000000B") < flat.index("0000000000000009")
