"""Arguments are added for kernels that know them."""

import struct
from pathlib import Path

import pytest

from ringlet.images.arguments import HUGE_PAGES, with_huge_pages


def bzimage(release: str, offset: int = 0x3000) -> bytes:
    image = bytearray(0x4000)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, offset)
    text = f"{release} (someone@somewhere) #1 SMP\0".encode()
    image[0x200 + offset : 0x200 + offset + len(text)] = text
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "known"),
    [
        (bzimage("6.12.117+deb13-cloud-amd64"), True),
        (bzimage("6.12.0"), True),
        (bzimage("7.0.1-rc2~x"), True),
        (bzimage("6.1.0-56-cloud-amd64"), False),
        (bzimage("6.11.10"), False),
        (bzimage("5.120.1"), False),
        (bzimage("none"), False),
        (bzimage("6.12.0", offset=0), False),
        (bzimage("6.12.0")[:0x210], False),
        (bzimage("6.12.0")[:0x20F], False),
        (b"\x7fELF" + bytes(0x4000), False),
        (b"", False),
    ],
)
def test_kernels_from_6_12_on_get_the_argument(tmp_path: Path, image: bytes, known: bool) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(image)

    assert with_huge_pages("quiet", kernel) == (f"{HUGE_PAGES} quiet" if known else "quiet")


def test_a_kernel_that_cannot_be_read_gets_none(tmp_path: Path) -> None:
    assert with_huge_pages("quiet", tmp_path / "none") == "quiet"
