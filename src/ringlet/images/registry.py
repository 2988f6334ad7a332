"""Fetches images from registries by the OCI distribution specification 1.1.

Only what anybody may read is fetched.  A registry is hostile input: what it sends is bounded, and
each blob is checked against its digest.
"""

import contextlib
import enum
import hashlib
import ipaddress
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlencode, urlsplit

from ringlet.config import format_size
from ringlet.errors import ImageError
from ringlet.images.interruptible import interruptible
from ringlet.images.names import Reference
from ringlet.images.oci import ACCEPTED, MAX_DOCUMENT, Checked, Descriptor
from ringlet.images.store import free_space

_TIMEOUT_S: Final = 60
_TRIES: Final = 3
_CHUNK: Final = 1 << 20
_MAX_TOKEN: Final = 1 << 16
_MAX_URL: Final = 4096
_HOSTS: Final = {"docker.io": "registry-1.docker.io"}
_CHALLENGE: Final = re.compile(r'([a-z]+)="([^"]*)"', re.IGNORECASE)


class Reach(enum.IntEnum):
    """Who can reach a host, by its name in a URL alone."""

    HOST = 0
    """This host itself: localhost, 127.0.0.1."""
    NETWORK = 1
    """Those of a network: an address that is not global."""
    ALL = 2
    """All, as far as the name tells.  It may stand for any address, but with TLS the answer must
    come from that name."""


def reach_of(host: str) -> Reach:
    """Return who can reach `host`, a name or an address in any form that the resolver takes."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith((".localhost", ".localdomain")):
        return Reach.HOST
    try:
        # "127.1", "0x7f000001" and "2130706433" are the loopback's address too.
        found = socket.getaddrinfo(name, None, flags=socket.AI_NUMERICHOST)[0][4][0]
        address = ipaddress.ip_address(str(found).partition("%")[0])
    except (OSError, ValueError):
        return Reach.ALL
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or address.is_unspecified:
        return Reach.HOST
    return Reach.ALL if address.is_global else Reach.NETWORK


def may_lead_to(url: str, reach: Reach) -> bool:
    """Return whether a registry that is within `reach` may have `url` asked, which is its word."""
    try:
        parts = urlsplit(url)
        there = reach_of(parts.hostname or "")
        # The host of the request must be the one that is judged: urllib decodes "%31%32%37.0.0.1".
        same = urllib.request.Request(url).host == parts.netloc  # noqa: S310 - it is not opened
    except ValueError:
        return False
    if not parts.hostname or there < reach or not same or not parts.netloc.isascii():
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and there is Reach.HOST)


class Registry:
    """The registry that has the image of `reference`.  Blobs are fetched to files in `directory`.

    HTTP without TLS is used for this host itself only.  A registry elsewhere cannot send requests
    to this host or its network: where it leads must be reached by TLS, and be no address of theirs.
    The methods raise ImageError.
    """

    def __init__(
        self, reference: Reference, directory: Path, update: Callable[[str], None]
    ) -> None:
        self.reference = reference
        self._directory = directory
        self._update = update
        host = reference.host
        reach = reach_of(host.partition(":")[0])
        scheme = "http" if reach is Reach.HOST else "https"
        self._base = f"{scheme}://{_HOSTS.get(host, host)}/v2/{reference.path}"
        self._token = ""
        self._reach = reach
        self._opener = urllib.request.build_opener(_Redirects(reach))

    def index(self) -> bytes:
        """Return an index whose only entry is what the reference names.

        A reference by digest is checked where the manifest is read; one by tag is believed.
        """
        url = f"{self._base}/manifests/{self.reference.version}"
        with self._request(url, {"Accept": ", ".join(ACCEPTED)}) as response:
            data = _bounded(response, MAX_DOCUMENT, self.reference.name)
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        digest = self.reference.version
        if not digest.startswith("sha256:"):
            digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        entry = {"digest": digest, "size": len(data), "mediaType": kind}
        (self._directory / digest.replace(":", "-")).write_bytes(data)
        return json.dumps({"manifests": [entry]}).encode()

    @contextmanager
    def open(self, blob: Descriptor) -> Iterator[IO[bytes]]:
        """Give the blob's bytes, which are fetched to a file first and are dropped afterwards."""
        path = self._directory / blob.digest.replace(":", "-")
        if not path.exists():
            self._fetch(blob, path)
        with path.open("rb") as file:
            yield file
        path.unlink()

    # --- inside

    def _fetch(self, blob: Descriptor, path: Path) -> None:
        if free_space(self._directory) < blob.size:
            raise ImageError(
                f"{self._directory.parent}: too little room; free {format_size(blob.size)} there, "
                "or set XDG_CACHE_HOME to another directory"
            )
        kind = "manifests" if blob.media_type in ACCEPTED else "blobs"
        url = f"{self._base}/{kind}/{blob.digest}"
        with path.open("wb") as file:
            for last in (*[False] * (_TRIES - 1), True):
                have = file.tell()
                headers = {"Accept": blob.media_type} if kind == "manifests" else {}
                if have:
                    headers["Range"] = f"bytes={have}-"
                with self._request(url, headers) as response:
                    if have and response.status != 206:  # it sends all of it again
                        file.seek(0)
                        file.truncate()
                    self._copy(response, file, blob)
                if file.tell() == blob.size:
                    break
                if last or file.tell() > blob.size:
                    what = "longer" if file.tell() > blob.size else "shorter"
                    raise ImageError(
                        f"{self.reference.name}: the registry's {blob.digest[:19]} is {what} than "
                        "it should be; try again later"
                    )
        with path.open("rb") as source:
            Checked(source, blob, self.reference.name).finish()

    def _copy(self, response: HTTPResponse, file: IO[bytes], blob: Descriptor) -> None:
        # A connection that breaks is continued by the next try.
        with contextlib.suppress(HTTPException, OSError):
            while data := response.read(_CHUNK):
                file.write(data)
                if file.tell() > blob.size:
                    return
                self._update(
                    f"fetching {self.reference.name}, {format_size(file.tell())} of "
                    f"{format_size(blob.size)}"
                )

    @contextmanager
    def _request(self, url: str, headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
        """Give the answer to a request, with a token if the registry asks for one."""
        for second in (False, True):
            sent = {"User-Agent": "ringlet", **headers}
            if self._token:
                sent["Authorization"] = f"Bearer {self._token}"
            try:
                response = self._open(url, sent)
            except urllib.error.HTTPError as error:
                with error:
                    challenge = error.headers.get("WWW-Authenticate", "")
                    if error.code != 401 or second or not challenge:
                        raise self._refused(error) from error
                self._token = self._get_token(challenge)
                continue
            with response:
                yield response
            return

    def _get_token(self, challenge: str) -> str:
        """Return a token by the challenge `Bearer realm="...",service="...",scope="..."`."""
        kind, _, rest = challenge[:_MAX_URL].partition(" ")
        given = {key.lower(): value for key, value in _CHALLENGE.findall(rest)}
        realm = given.get("realm", "")
        if kind.lower() != "bearer" or not may_lead_to(realm, self._reach):
            raise ImageError(
                f"{self.reference.name}: the registry {self.reference.host} wants a login, which "
                "Ringlet has not; fetch it with skopeo to a directory and give oci:DIR"
            )
        query = {key: given[key] for key in ("service", "scope") if key in given}
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query)}"
        try:
            with self._open(url, {"User-Agent": "ringlet"}) as response:
                content = json.loads(_bounded(response, _MAX_TOKEN, self.reference.name))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (ValueError, RecursionError) as error:
            raise ImageError(f"{self.reference.host}: its token is not JSON") from error
        given = content if isinstance(content, dict) else {}
        token = given.get("token") or given.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]{1,16384}", token):
            raise ImageError(f"{self.reference.host}: its token is invalid")
        return token

    def _open(self, url: str, headers: Mapping[str, str]) -> Any:
        request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http and https
        try:
            return interruptible(lambda: self._opener.open(request, timeout=_TIMEOUT_S))
        except urllib.error.HTTPError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ImageError(
                f"{self.reference.name}: the network does not reach {urlsplit(url).netloc} "
                f"({reason})"
            ) from error

    def _refused(self, error: urllib.error.HTTPError) -> ImageError:
        name, host = self.reference.name, self.reference.host
        match error.code:
            case 401 | 403:
                return ImageError(f"{name}: {host} denies it, or has no such image")
            case 404:
                return ImageError(f"{name}: {host} has no such image")
            case 429:
                return ImageError(f"{name}: {host} allows no more requests now; try again later")
        return ImageError(f"{name}: {host} answers with status {error.code}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows the redirects of a registry, but gives a token to no other host."""

    max_redirections = 5

    def __init__(self, reach: "Reach") -> None:
        self._reach = reach

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request that follows a redirect."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        leaves_tls = old.scheme == "https" and new.scheme == "http"
        if leaves_tls or not may_lead_to(newurl, self._reach):
            raise urllib.error.URLError(f"redirected to {newurl[:80]!a}")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and new.netloc != old.netloc:
            request.remove_header("Authorization")
        return request


def _bounded(response: HTTPResponse, most: int, name: str) -> bytes:
    try:
        data = response.read(most + 1)
    except (HTTPException, OSError) as error:
        raise ImageError(f"{name}: the registry's answer breaks off: {error}") from error
    if len(data) > most:
        raise ImageError(f"{name}: the registry's answer is too long")
    return data
