"""Images fetched from a registry, which the test serves on this host."""

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ringlet.errors import ImageError
from ringlet.images.catalog import Images
from ringlet.images.ext4 import GROUP_BYTES
from ringlet.images.imports import import_image, pull
from ringlet.images.names import parse_reference
from ringlet.images.oci import Descriptor
from ringlet.images.registry import Reach, Registry, may_lead_to, reach_of
from ringlet.images.store import Store
from tests.unit.images.archives import INDEX, MANIFEST, Layout, member, tar


class Served(http.server.ThreadingHTTPServer):
    """A registry that serves a layout; its attributes make it hostile."""

    daemon_threads = False

    def __init__(self, layout: Layout) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.layout = layout
        self.token = ""
        self.challenge = ""
        self.answer = b""
        self.cut = 0  # the bytes after which a blob's connection breaks
        self.status = 0
        self.other: bytes | None = None
        self.redirect = ""
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Served

    def do_GET(self) -> None:
        served = self.server
        served.requests.append((self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        if path == "/token":
            self._send(served.answer or json.dumps({"token": served.token}).encode())
        elif served.status:
            self._send(b"", served.status)
        elif served.token and self.headers.get("Authorization") != f"Bearer {served.token}":
            challenge = f'Bearer realm="http://{served.host}/token",service="s",scope="pull"'
            self._send(b"", 401, {"WWW-Authenticate": served.challenge or challenge})
        elif "/manifests/" in path:
            self._manifest(path.rpartition("/")[2])
        elif served.redirect:
            self._send(b"", 307, {"Location": served.redirect + path})
        else:
            self._blob(path.rpartition("/")[2])

    def _manifest(self, version: str) -> None:
        content = {"manifests": self.server.layout.manifests}
        data, kind = json.dumps(content).encode(), INDEX
        if version.startswith("sha256:"):
            data, kind = self.server.layout.path({"digest": version}).read_bytes(), MANIFEST
        self._send(data, headers={"Content-Type": kind})

    def _blob(self, digest: str) -> None:
        data = self.server.layout.path({"digest": digest}).read_bytes()
        if self.server.other is not None:
            data = self.server.other
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        rest = data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = self.server.cut
        self.wfile.write(rest[:cut] if cut else rest)

    def _send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Log nothing."""


@contextlib.contextmanager
def serving(layout: Layout) -> Iterator[Served]:
    with Served(layout) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "layout")
    found.image([tar([member("file", b"x" * 5000), member("more", bytes(range(256)) * 8)])])
    return found


@pytest.fixture
def registry(layout: Layout) -> Iterator[Served]:
    with serving(layout) as server:
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(Store(tmp_path / "ringlet"))


def fetch(images: Images, registry: Served, name: str = "a/b:1") -> Any:
    source = f"docker://{registry.host}/{name}"
    return import_image(source, images, lambda _: None, size=GROUP_BYTES)


def test_an_image(images: Images, registry: Served) -> None:
    image = fetch(images, registry)

    assert image.name == f"{registry.host}/a/b:1"
    assert image.digest == registry.layout.manifests[0]["digest"]
    assert registry.requests[0][0] == "/v2/a/b/manifests/1"
    assert sorted(path.name for path in image.disk.parent.iterdir()) == [
        "disk.raw", "image.json", "users",
    ]  # fmt: skip


def test_an_image_by_its_digest(images: Images, registry: Served) -> None:
    digest = registry.layout.manifests[0]["digest"]

    assert fetch(images, registry, f"a/b@{digest}").digest == digest


def test_a_manifest_that_is_not_its_digests(images: Images, registry: Served) -> None:
    path = registry.layout.path(registry.layout.manifests[0])
    path.write_bytes(path.read_bytes().replace(b'"schemaVersion"', b'"schemaversion"'))
    digest = registry.layout.manifests[0]["digest"]

    with pytest.raises(ImageError, match="does not match its digest"):
        fetch(images, registry, f"a/b@{digest}")
    assert images.list() == []


def test_a_stored_image_is_not_fetched_again(images: Images, registry: Served) -> None:
    name = f"docker://{registry.host}/a/b:1"
    first = pull(name, images, lambda _: None)
    registry.requests.clear()

    assert pull(name, images, lambda _: None) == first
    assert registry.requests == []
    assert pull(name, images, lambda _: None, again=True).created > first.created


def test_an_image_of_that_name_from_elsewhere_is_not_the_registrys(
    images: Images, registry: Served, tmp_path: Path
) -> None:
    (tmp_path / "root.tar").write_bytes(tar([member("evil")]))
    name = f"{registry.host}/a/b:1"
    import_image(
        str(tmp_path / "root.tar"), images, lambda _: None, name=name, size=GROUP_BYTES
    )

    assert pull(name, images, lambda _: None).source == f"docker://{name}"


def test_a_token_is_fetched_when_the_registry_asks(images: Images, registry: Served) -> None:
    registry.token = "secret"

    fetch(images, registry)

    asked = [path for path, _ in registry.requests if path.startswith("/token")]
    assert asked == ["/token?service=s&scope=pull"]


@pytest.mark.parametrize(
    "challenge",
    ['Basic realm="x"', "Bearer", 'Bearer realm="ftp://x/"', 'Bearer realm="http://example.com/"',
     'Bearer realm="file:///etc/passwd"', "x" * 50_000, 'Bearer realm="https://[::1"',
     'Bearer realm="http:///x"'],
    ids=range(8),
)  # fmt: skip
def test_challenges_that_cannot_be_met(images: Images, registry: Served, challenge: str) -> None:
    registry.token, registry.challenge = "secret", challenge

    with pytest.raises(ImageError, match=r"wants a login|no such image"):
        fetch(images, registry)


class Elsewhere(Registry):
    """A registry on the Internet: `served` stands for what names and TLS would lead to."""

    def __init__(self, served: Served, directory: Path) -> None:
        super().__init__(parse_reference("evil.example/a/b:1"), directory, lambda _: None)
        self._served = served

    def _open(self, url: str, headers: Mapping[str, str]) -> Any:
        return super()._open(
            url.replace("https://evil.example", f"http://{self._served.host}"), headers
        )


@pytest.mark.parametrize("form", ["http://{}/admin", "https://{}/admin", "https://u@{}/admin"])
def test_a_registry_elsewhere_gets_no_token_of_this_host(
    registry: Served, layout: Layout, tmp_path: Path, form: str
) -> None:
    registry.token = "secret"
    with serving(layout) as local:
        registry.challenge = f'Bearer realm="{form.format(local.host)}",service="s"'

        with pytest.raises(ImageError, match="wants a login"):
            Elsewhere(registry, tmp_path).index()

        assert local.requests == []


@pytest.mark.parametrize("form", ["http://{}", "https://{}"])
def test_a_registry_elsewhere_redirects_not_to_this_host(
    registry: Served, layout: Layout, tmp_path: Path, form: str
) -> None:
    with serving(layout) as local:
        registry.redirect = form.format(local.host)
        elsewhere = Elsewhere(registry, tmp_path)
        blob = Descriptor(f"sha256:{'0' * 64}", 10)

        with pytest.raises(ImageError, match=r"redirected to .*127"), elsewhere.open(blob):
            pass

        assert local.requests == []


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        *((host, Reach.HOST) for host in (
            "localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "127.1", "0x7f.1",
            "2130706433", "0.0.0.0", "0", "::1", "::", "::ffff:127.0.0.1",
        )),
        *((host, Reach.NETWORK) for host in (
            "10.0.0.1", "169.254.169.254", "192.168.1.1", "fe80::1", "fd00::1", "::ffff:10.0.0.1",
        )),
        *((host, Reach.ALL) for host in ("example.com", "8.8.8.8", "2606:4700::1", "", "a" * 300)),
    ],
)  # fmt: skip
def test_who_reaches_a_host(host: str, reach: Reach) -> None:
    assert reach_of(host) is reach


@pytest.mark.parametrize(
    ("url", "least"),
    [
        ("http://127.0.0.1/x", Reach.HOST), ("https://localhost/x", Reach.HOST),
        ("https://10.0.0.1/x", Reach.NETWORK), ("https://example.com/x", Reach.ALL),
        ("http://example.com/x", None), ("http://10.0.0.1/x", None), ("https://[::1", None),
        ("https:///x", None), ("file:///etc/passwd", None), ("", None),
        # What urllib asks is not what the URL seems to say.
        ("https://%31%32%37.0.0.1:8443/x", None), ("https://example.com%2f/x", None),
        ("https://loc%61lhost/x", None), ("https://exam\tple.com/x", None),
        ("https://\uff4cocalhost/x", None), ("https://example.com:5000/x%31?y=%32", Reach.ALL),
    ],
)  # fmt: skip
def test_where_a_registry_may_lead(url: str, least: Reach | None) -> None:
    allowed = [reach for reach in Reach if may_lead_to(url, reach)]

    assert allowed == ([] if least is None else [reach for reach in Reach if reach <= least])


def test_a_token_nested_without_end(images: Images, registry: Served) -> None:
    registry.token = "secret"
    registry.answer = b"[" * 60_000

    with pytest.raises(ImageError, match="its token is not JSON"):
        fetch(images, registry)


def test_a_token_that_does_not_help(images: Images, registry: Served) -> None:
    registry.token = "two words"

    with pytest.raises(ImageError, match="its token is invalid"):
        fetch(images, registry)


def test_a_redirect_gets_no_token(images: Images, registry: Served) -> None:
    registry.token = "secret"
    with serving(registry.layout) as other:
        registry.redirect = f"http://{other.host}"
        fetch(images, registry)

        assert other.requests
        assert all("Authorization" not in headers for _, headers in other.requests)


@pytest.mark.parametrize("target", ["file:///etc/passwd?", "ftp://example.com/"])
def test_a_redirect_to_no_web_server(images: Images, registry: Served, target: str) -> None:
    registry.redirect = target

    with pytest.raises(ImageError):
        fetch(images, registry)


def test_a_blob_that_breaks_off_is_continued(images: Images, registry: Served) -> None:
    largest = max(
        layer["size"]
        for layer in json.loads(registry.layout.path(registry.layout.manifests[0]).read_bytes())[
            "layers"
        ]
    )
    registry.cut = largest // 2 + 1

    fetch(images, registry)

    assert any("Range" in headers for _, headers in registry.requests)


def test_a_blob_that_always_breaks_off(images: Images, registry: Served) -> None:
    registry.cut = 1

    with pytest.raises(ImageError, match="is shorter than it should be"):
        fetch(images, registry)
    assert list(images.root.iterdir()) == []


def test_a_blob_that_is_too_long(images: Images, registry: Served) -> None:
    registry.other = bytes(1 << 20)

    with pytest.raises(ImageError, match="is longer than it should be"):
        fetch(images, registry)


def test_a_blob_that_is_another(images: Images, registry: Served) -> None:
    for path in registry.layout.directory.glob("blobs/sha256/*"):
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            path.write_bytes(bytes(len(data)))

    with pytest.raises(ImageError, match="does not match its digest"):
        fetch(images, registry)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "wants a login|denies it"), (403, "denies it"), (404, "has no such image"),
     (429, "allows no more requests"), (500, "answers with status 500")],
)  # fmt: skip
def test_what_a_registry_refuses(
    images: Images, registry: Served, status: int, message: str
) -> None:
    registry.status = status

    with pytest.raises(ImageError, match=message):
        fetch(images, registry)


def test_no_registry(tmp_path: Path, layout: Layout) -> None:
    with serving(layout) as server:
        host = server.host
    registry = Registry(parse_reference(f"{host}/a"), tmp_path, lambda _: None)

    with pytest.raises(ImageError, match=r"the network does not reach 127\.0\.0\.1"):
        registry.index()
