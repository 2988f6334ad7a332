"""The seed of a cloud image: a disk from which cloud-init takes its settings at the first boot.

It is the NoCloud source of cloud-init: an ISO 9660 file system with the label `cidata` and the
files meta-data, user-data and network-config.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Final

from ringlet.errors import ConfigError, ImageError

MAX_USER_DATA: Final = 1 << 20
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_KEY: Final = re.compile(r"(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n]*)?")
_KINDS: Final = (b"#", b"content-type:", b"mime-version:", b"from ", b"\x1f\x8b")
"""How user data begins: a kind of cloud-init's, headers of MIME, or gzip."""
_NETWORK: Final = (
    "version: 2\nethernets:\n  all:\n    match: {name: 'e*'}\n    dhcp4: true\n    dhcp6: true\n"
)


def read_user_data(path: Path, called: str) -> bytes:
    """Return the contents of a file of the user's.  Raises ConfigError, which names `called`."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_USER_DATA + 1)
    except OSError as error:
        raise ConfigError(f"{called} {path}: cannot be read: {error.strerror}") from None


def check_user_data(data: bytes, called: str) -> bytes:
    """Return user data that cloud-init takes.  Raises ConfigError for what it would ignore."""
    if len(data) > MAX_USER_DATA:
        raise ConfigError(f"{called}: cloud-init takes at most 1 MiB of user data")
    if not data.lower().startswith(_KINDS):
        raise ConfigError(
            f"{called}: cloud-init would ignore this: it begins with neither #cloud-config nor #!"
        )
    return data


def seed_of(user_data: bytes, hostname: str) -> bytes:
    """Return the seed with a user's data, as `make_seed`.

    Other data is another instance, so that cloud-init in a disk that has booted before takes it.
    `hostname` becomes the guest's if it can be one.
    """
    instance = f"ringlet-{hashlib.sha256(user_data).hexdigest()[:16]}"
    if not _HOST_NAME.fullmatch(hostname):
        hostname = "ringlet"
    return make_seed(user_data, instance=instance, hostname=hostname)


def make_seed(user_data: bytes, *, instance: str, hostname: str = "ringlet") -> bytes:
    """Return the seed's disk image.

    cloud-init runs its first boot again when `instance` is another one.  Raises ConfigError.
    """
    if len(user_data) > MAX_USER_DATA:
        raise ConfigError(f"the user data has {len(user_data)} bytes; cloud-init takes 1 MiB")
    if not _HOST_NAME.fullmatch(hostname) or not _HOST_NAME.fullmatch(instance):
        raise ConfigError(
            f"{hostname!r} or {instance!r} is not a name; use letters, digits and '-'"
        )
    files = {
        "meta-data": f"instance-id: {instance}\nlocal-hostname: {hostname}\n".encode(),
        "user-data": user_data,
        "network-config": _NETWORK.encode(),
    }
    try:
        import pycdlib
    except ImportError:
        raise ImageError(
            "the settings of a cloud image need pycdlib; pip install pycdlib"
        ) from None
    image = pycdlib.PyCdlib()
    image.new(vol_ident="cidata", joliet=3, rock_ridge="1.09")
    for number, (name, content) in enumerate(files.items()):
        image.add_fp(
            io.BytesIO(content), len(content), f"/FILE{number}.;1", rr_name=name,
            joliet_path=f"/{name}",
        )  # fmt: skip
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue()


def login(keys: Path | None = None) -> bytes:
    """Return user data that lets root in on the console, and over ssh by the keys in a file.

    Raises ConfigError.
    """
    lines = ["#cloud-config", "disable_root: false", "ssh_pwauth: false", "users:", "- name: root"]
    lines += ["  lock_passwd: false", "  hashed_passwd: ''"]
    if keys is not None:
        try:
            text = keys.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{keys}: cannot be read: {error}") from error
        found = [line.strip() for line in text.splitlines() if line.strip()]
        if not found or not all(map(_KEY.fullmatch, found)):
            raise ConfigError(f"{keys}: not a file of public keys for ssh")
        lines.append("  ssh_authorized_keys:")
        lines += [f"  - {line}" for line in found]
    return ("\n".join(lines) + "\n").encode()
