"""What the names of images mean."""

from pathlib import Path

import pytest

from ringlet.errors import ConfigError
from ringlet.images.names import Kind, check_name, from_file, parse_reference, parse_source, to_file

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("text", "host", "path", "version", "name"),
    [
        ("python", "docker.io", "library/python", "latest", "python:latest"),
        ("python:3.12", "docker.io", "library/python", "3.12", "python:3.12"),
        ("a/b", "docker.io", "a/b", "latest", "a/b:latest"),
        ("ghcr.io/a/b:x", "ghcr.io", "a/b", "x", "ghcr.io/a/b:x"),
        ("localhost:5000/a", "localhost:5000", "a", "latest", "localhost:5000/a:latest"),
        ("debian:12", "docker.io", "library/debian", "12", "docker.io/library/debian:12"),
        ("me/debian", "docker.io", "me/debian", "latest", "me/debian:latest"),
        (f"a@{DIGEST}", "docker.io", "library/a", DIGEST, f"a@{DIGEST}"),
        (f"a:1@{DIGEST}", "docker.io", "library/a", DIGEST, f"a@{DIGEST}"),
    ],
)
def test_references(text: str, host: str, path: str, version: str, name: str) -> None:
    found = parse_reference(text)

    assert (found.host, found.path, found.version, found.name) == (host, path, version, name)


@pytest.mark.parametrize(
    "text",
    ["", ":", "A", "a:", "a b", "a@sha256:12", "a/../b", "http://a/b", "a?x=1", "a\n", "-a/b.c"],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of an image"):
        parse_reference(text)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("docker://python:3.12", Kind.REGISTRY, "python:3.12"),
        ("root.tar", Kind.TAR, "root"),
        ("/x/y/my root.TAR.zst", Kind.TAR, "my-root"),
        ("a.tgz", Kind.TAR, "a"),
        ("noble-server-cloudimg-amd64.img", Kind.DISK, "noble-server-cloudimg-amd64"),
        ("./debian-12.qcow2", Kind.DISK, "debian-12"),
        ("debian", Kind.STORED, "debian"),
        ("python:3.12", Kind.STORED, "python:3.12"),
    ],
)
def test_sources(text: str, kind: Kind, name: str) -> None:
    source = parse_source(text)

    assert (source.kind, source.name) == (kind, name)


def test_a_layout_and_its_tag(tmp_path: Path) -> None:
    (tmp_path / "my.image").mkdir()

    whole = parse_source(f"oci:{tmp_path}/my.image")
    tagged = parse_source(f"oci:{tmp_path}/my.image:v1")

    assert (whole.text, whole.name, whole.tag) == (f"{tmp_path}/my.image", "my.image", "")
    assert (tagged.text, tagged.name, tagged.tag) == (f"{tmp_path}/my.image", "my.image:v1", "v1")


@pytest.mark.parametrize("name", ["", "..", "a/../b", ".hidden", "/a", "a b", "a\0", "a" * 300])
def test_names_that_the_store_refuses(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize("name", ["debian", "ghcr.io/a/b:x", f"a@{DIGEST}", "a+b"])
def test_a_name_is_one_directory_and_comes_back(name: str) -> None:
    assert "/" not in to_file(name)
    assert from_file(to_file(check_name(name))) == name
