"""Images made of OCI layouts, archives and cloud images."""

import gzip
import io
import json
import lzma
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ringlet.errors import ConfigError, ImageError
from ringlet.images import headers
from ringlet.images.catalog import Images
from ringlet.images.ext4 import GROUP_BYTES
from ringlet.images.imports import find_image, import_image
from ringlet.images.store import Store
from tests.unit.devices.disks.test_images import header
from tests.unit.images.archives import (
    INDEX,
    MANIFEST,
    NEEDS_E2FSPROGS,
    Layout,
    check,
    content,
    folder,
    link,
    listed,
    member,
    tar,
)

pytestmark = NEEDS_E2FSPROGS

CONFIG = {
    "Env": ["PATH=/bin", "A=b c"], "Entrypoint": ["/bin/run"], "Cmd": ["x", "y"],
    "WorkingDir": "/work", "User": "app",
}  # fmt: skip
BASE = tar([folder("bin"), member("bin/run", b"1", mode=0o755), member("gone", b"2")])
TOP = tar([member("new", b"3"), member(".wh.gone")])


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(Store(tmp_path / "ringlet"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def silent(_text: str) -> None:
    pass


def make(images: Images, source: object, name: str = "") -> Path:
    """Import an image and return its checked disk."""
    image = import_image(str(source), images, silent, name=name, size=GROUP_BYTES)
    check(image.disk)
    return image.disk


def test_a_layout(images: Images, layout: Layout) -> None:
    layout.image([BASE, TOP], CONFIG)

    disk = make(images, f"oci:{layout.write()}")

    assert listed(disk) == ["bin", "dev", "new", "proc", "run", "sys", "tmp"]
    assert content(disk, "/bin/run") == b"1"
    [image] = images.list()
    assert (image.name, image.kind, image.digest) == (
        "layout",
        "oci",
        layout.manifests[0]["digest"],
    )
    settings = image.settings
    assert settings.env == ("PATH=/bin", "A=b c")
    assert (settings.entrypoint, settings.command) == (("/bin/run",), ("x", "y"))
    assert (settings.directory, settings.user, settings.boots) == ("/work", "app", False)


def test_an_image_without_settings_gets_a_path(images: Images, layout: Layout) -> None:
    layout.image([BASE])
    make(images, f"oci:{layout.write()}")

    assert images.list()[0].settings.env[0].startswith("PATH=/usr/local/sbin:")


def test_the_image_for_amd64_is_chosen(images: Images, layout: Layout) -> None:
    layout.image([tar([member("arm")])], architecture="arm64")
    layout.image([tar([member("amd")])])
    nested = layout.blob(json.dumps({"manifests": layout.manifests}).encode(), INDEX)
    layout.manifests = [nested]

    assert "amd" in listed(make(images, f"oci:{layout.write()}"))


def test_an_image_is_chosen_by_its_tag(images: Images, layout: Layout) -> None:
    layout.image([tar([member("one")])], tag="1")
    layout.image([tar([member("two")])], tag="2")
    directory = layout.write()

    assert "two" in listed(make(images, f"oci:{directory}:2"))
    with pytest.raises(ImageError, match="several images; name one: 1, 2"):
        make(images, f"oci:{directory}")
    with pytest.raises(ImageError, match="no image '3'; it has 1, 2"):
        make(images, f"oci:{directory}:3")


def test_indexes_that_lead_to_each_other_end(images: Images, layout: Layout) -> None:
    layout.image([BASE])
    for _ in range(8):
        layout.manifests = [
            layout.blob(json.dumps({"manifests": layout.manifests}).encode(), INDEX)
        ]

    with pytest.raises(ImageError, match="nested too deeply"):
        make(images, f"oci:{layout.write()}")


@pytest.mark.parametrize("change", [b"", b"x"], ids=["shorter", "other"])
@pytest.mark.parametrize("what", ["manifest", "config", "layer"])
def test_a_blob_that_is_not_its_digests(
    images: Images, layout: Layout, what: str, change: bytes
) -> None:
    found = layout.image([BASE])
    directory = layout.write()
    manifest = json.loads(layout.path(found).read_bytes())
    blob = {"manifest": found, "config": manifest["config"], "layer": manifest["layers"][0]}[what]
    path = layout.path(blob)
    path.write_bytes(path.read_bytes()[:-1] + change)

    with pytest.raises(ImageError, match=r"does not match|are missing"):
        make(images, f"oci:{directory}")
    assert images.list() == []
    assert list(images.root.iterdir()) == []


@pytest.mark.parametrize(
    "index",
    ["[]", "{}", "x", '{"manifests": 1}', '{"manifests": [1]}', '{"manifests": [{}]}',
     '{"manifests": [{"digest": "sha256:../../x", "size": 1}]}',
     '{"manifests": [{"digest": "md5:12", "size": 1}]}', "[" * 100_000,
     '{"manifests": [{"platform": {"os": "windows"}}]}',
     f'{{"manifests": [{{"digest": "sha256:{"0" * 64}", "size": {10**400}}}]}}',
     f'{{"manifests": [{{"digest": "sha256:{"0" * 64}", "size": {1 << 63}}}]}}',
     '{"manifests": [{"annotations": 1, "platform": 2, "digest": [], "size": {}}]}'],
    ids=range(13),
)  # fmt: skip
def test_hostile_indexes(images: Images, layout: Layout, index: str) -> None:
    layout.write()
    (layout.directory / "index.json").write_text(index)

    with pytest.raises(ImageError, match="layout: "):
        make(images, f"oci:{layout.directory}")


@pytest.mark.parametrize(
    "config",
    [{"Env": 1}, {"Env": [1]}, {"Cmd": {"a": 1}}, {"User": ["a"]}, {"Env": ["a\0b"]},
     {"Env": ["x"] * 10_000}],
    ids=range(6),
)  # fmt: skip
def test_hostile_configurations(images: Images, layout: Layout, config: dict[str, object]) -> None:
    layout.image([BASE], config)

    with pytest.raises(ImageError, match=r"is invalid|too long|missing"):
        make(images, f"oci:{layout.write()}")


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b'"layers"'])
@pytest.mark.parametrize("what", ["manifest", "config"])
def test_descriptions_that_are_no_objects(
    images: Images, layout: Layout, what: str, data: bytes
) -> None:
    blob = layout.blob(data, MANIFEST)
    if what == "config":
        blob = layout.blob(json.dumps({"config": blob, "layers": []}).encode(), MANIFEST)
    layout.manifests = [blob]

    with pytest.raises(ImageError, match="is not an object"):
        make(images, f"oci:{layout.write()}")


@pytest.mark.parametrize(
    ("config", "layer"),
    [(link("c.json", "c.json"), "l"), (link("c.json", "none"), "l"),
     (member("c.json", b"{}"), "gone")],
    ids=["itself", "nothing", "absent"],
)  # fmt: skip
def test_links_of_an_archive_that_lead_nowhere(
    images: Images, tmp_path: Path, config: tuple[tarfile.TarInfo, bytes], layer: str
) -> None:
    about = json.dumps([{"Config": "c.json", "Layers": [layer]}]).encode()
    (tmp_path / "saved.tar").write_bytes(tar([member("manifest.json", about), config]))

    with pytest.raises(ImageError, match=r"saved.tar: the archive has no file"):
        make(images, tmp_path / "saved.tar")


def test_an_image_for_another_processor(images: Images, layout: Layout) -> None:
    found = layout.image([BASE], architecture="arm64")
    del found["platform"]

    with pytest.raises(ImageError, match="for linux/arm64, not for linux/amd64"):
        make(images, f"oci:{layout.write()}")


def test_no_layout(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no OCI image is there"):
        make(images, f"oci:{tmp_path}")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gz", "xz"])
def test_an_archive_of_a_layout(
    images: Images, layout: Layout, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    layout.image([BASE, TOP], CONFIG)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(layout.write(), ".")
    path = tmp_path / "saved.tar"
    path.write_bytes(pack(out.getvalue()))

    disk = make(images, path)

    assert "new" in listed(disk) and "gone" not in listed(disk)
    assert images.list()[0].settings.user == "app"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("where", ["index.json", "manifest", "layer"])
def test_a_layout_with_a_pipe_in_place_of_a_file(
    images: Images, layout: Layout, where: str
) -> None:
    found = layout.image([BASE])
    blobs = {"manifest": layout.path(found)}
    blobs["layer"] = layout.path(json.loads(blobs["manifest"].read_bytes())["layers"][0])
    path = blobs.get(where, layout.write() / "index.json")
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(ImageError, match="a file is needed here, and this is a pipe"):
        make(images, f"oci:{layout.directory}")


@pytest.mark.timeout(20)
def test_a_pipe_is_no_archive(images: Images, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root.tar")

    with pytest.raises(ImageError, match=r"root\.tar: a file is needed here"):
        make(images, tmp_path / "root.tar")


@pytest.mark.parametrize("bound", ["MEMBERS", "ALL_HEADERS"])
@pytest.mark.parametrize("docker", [False, True])
def test_what_layers_take_is_bounded_together(
    images: Images,
    layout: Layout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
    *,
    docker: bool,
) -> None:
    layer = tar([member(f".wh.{n}") for n in range(40)])
    layout.image([layer] * 3)
    config = json.dumps({"os": "linux", "architecture": "amd64"}).encode()
    manifest = json.dumps([{"Config": "c.json", "Layers": ["layer.tar"] * 3}]).encode()
    files = {"c.json": config, "layer.tar": layer, "manifest.json": manifest}
    (tmp_path / "image.tar").write_bytes(tar(member(*file) for file in files.items()))
    monkeypatch.setattr(headers, bound, 100 if bound == "MEMBERS" else 50_000)

    with pytest.raises(ImageError, match=r"too many members|its headers are too long"):
        make(images, tmp_path / "image.tar" if docker else f"oci:{layout.write()}")


def test_an_archive_of_docker_save(images: Images, tmp_path: Path) -> None:
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": CONFIG}).encode()
    about = [{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    (tmp_path / "saved.tar").write_bytes(
        tar([
            folder("1"), member("1/VERSION", b"1.0"), member("1/layer.tar", BASE), folder("2"),
            member("2/layer.tar", TOP), member("c.json", config),
            member("manifest.json", json.dumps(about).encode()),
        ])
    )  # fmt: skip

    disk = make(images, tmp_path / "saved.tar")

    assert "new" in listed(disk) and "gone" not in listed(disk)
    assert images.list()[0].settings.entrypoint == ("/bin/run",)


def test_the_root_of_a_system(images: Images, tmp_path: Path) -> None:
    members = [folder("usr/lib/systemd"), member("usr/lib/systemd/systemd"), folder("sbin"),
               link("sbin/init", "/lib/systemd/systemd"), link("lib", "usr/lib")]  # fmt: skip
    (tmp_path / "root.tar.xz").write_bytes(lzma.compress(tar(members)))

    make(images, tmp_path / "root.tar.xz", "mine")

    [image] = images.list()
    assert (image.name, image.kind, image.settings.boots) == ("mine", "tar", True)


@pytest.mark.parametrize("data", [b"", b"x" * 20_000, gzip.compress(BASE)[:-9], tar([])])
def test_files_that_are_no_archive(images: Images, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "root.tar").write_bytes(data)

    with pytest.raises(ImageError, match=r"root.tar: .*(not a readable|damaged|empty)"):
        make(images, tmp_path / "root.tar")
    assert images.list() == []


def test_an_archive_that_expands_without_end(images: Images, tmp_path: Path) -> None:
    """What a compressed archive claims to have is not read beyond the disk's size."""
    zeros = gzip.compress(bytes(64 << 20), 1)
    head = tarfile.TarInfo("index.json")
    head.size = 1 << 50
    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(head.tobuf(tarfile.GNU_FORMAT)) + zeros)

    with pytest.raises(ImageError, match=r"give a larger one with --size"):
        import_image(str(tmp_path / "root.tar.gz"), images, silent, size=48 << 20)


def test_a_damaged_archive_leaves_nothing(images: Images, tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar([member(str(n), bytes(100)) for n in range(2000)])))
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (tmp_path / "root.tar.gz").write_bytes(data)

    with pytest.raises(ImageError):
        make(images, tmp_path / "root.tar.gz")
    assert list(images.root.iterdir()) == []


@pytest.mark.parametrize(
    ("head", "form"), [(header(), "qcow2"), (b"\xeb\x63\x90\0", "raw")], ids=["qcow2", "raw"]
)
def test_a_cloud_image(images: Images, tmp_path: Path, head: bytes, form: str) -> None:
    data = head + bytes(3 << 20) + b"end"
    (tmp_path / "cloud.img").write_bytes(data)

    image = import_image(str(tmp_path / "cloud.img"), images, silent)

    assert (image.kind, image.format, image.settings.boots) == ("disk", form, True)
    assert image.disk.read_bytes() == data
    assert image.size < 2 << 20


@pytest.mark.parametrize(
    "head", [header(b"/etc/shadow"), header(b"beside"), header(features=4)],
    ids=["backing", "beside", "data"],
)  # fmt: skip
def test_a_cloud_image_shows_no_file_of_the_host(
    images: Images, tmp_path: Path, head: bytes
) -> None:
    (tmp_path / "beside").write_bytes(bytes(512))
    (tmp_path / "cloud.qcow2").write_bytes(head.ljust(1 << 16, b"\0"))

    with pytest.raises(ImageError, match=r"cloud.qcow2: .*qemu-img convert"):
        import_image(str(tmp_path / "cloud.qcow2"), images, silent)
    assert images.list() == []


def test_an_image_is_found_by_its_name(images: Images, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(BASE)
    make(images, tmp_path / "root.tar", "mine:1")

    assert find_image("mine:1", images, silent).name == "mine:1"
    with pytest.raises(ImageError, match=r"other: there is no such image; the store has mine:1"):
        find_image("other", images, silent)


def test_a_file_is_imported_again_when_it_has_changed(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(BASE)
    first = find_image(str(path), images, silent)

    assert find_image(str(path), images, silent) == first
    os.utime(path, (first.created + 10, first.created + 10))
    assert find_image(str(path), images, silent).created > first.created


def test_a_file_of_the_same_name_is_another_image(images: Images, tmp_path: Path) -> None:
    paths = [tmp_path / name / "root.tar" for name in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(tar([member(path.parent.name)]))
        os.utime(path, (0, 0))
        image = find_image(str(path), images, silent)

    assert "b" in listed(image.disk)


def test_a_layout_is_imported_again_when_it_has_changed(images: Images, layout: Layout) -> None:
    layout.image([BASE])
    source = f"oci:{layout.write()}"
    first = find_image(source, images, silent)

    assert find_image(source, images, silent) == first
    layout.manifests.clear()
    layout.image([TOP])
    layout.write()
    assert find_image(source, images, silent).digest != first.digest


@pytest.mark.parametrize("name", ["debian", "debian:python3", "debian:12", "busybox"])
def test_names_of_ringlets_own_guests_are_not_for_imports(
    images: Images, tmp_path: Path, name: str
) -> None:
    (tmp_path / "root.tar").write_bytes(BASE)

    with pytest.raises(ConfigError, match=rf"^{name}: this is the name of a guest.*--name NAME"):
        make(images, tmp_path / "root.tar", name)


def test_a_file_called_debian_does_not_become_debian(images: Images, layout: Layout) -> None:
    layout.image([BASE])
    place = layout.write().rename(layout.directory.with_name("debian"))

    with pytest.raises(ConfigError, match=r"^debian: this is the name of a guest"):
        find_image(f"oci:{place}", images, silent)
    assert images.list() == []


def test_a_name_of_the_store_is_nothing_to_import(images: Images) -> None:
    with pytest.raises(ConfigError, match="names nothing to import"):
        import_image("debian", images, silent)


def test_a_file_that_is_not_there(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        make(images, tmp_path / "none.tar")


@pytest.mark.skipif(shutil.which("zstd") is None, reason="this host has no zstd")
def test_an_archive_of_zstd_without_the_package(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    (tmp_path / "root.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))

    with pytest.raises(ImageError, match="pip install zstandard"):
        make(images, tmp_path / "root.tar.zst")


@pytest.mark.parametrize("name", ["passwd", "a b", "passwd.txt"])
def test_a_file_that_is_no_image_by_its_name(images: Images, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("root")

    with pytest.raises(ConfigError, match=rf"{name}: no image has .* end in \.tar .*\.qcow2"):
        import_image(str(tmp_path / name), images, silent)


@pytest.mark.parametrize("name", ["mine", "a b"])
def test_a_directory_that_is_no_image(images: Images, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()

    with pytest.raises(ConfigError, match=rf"{name}: is a directory; give oci:.* tar -cf FILE"):
        import_image(str(tmp_path / name), images, silent)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("junk.qcow2", 2, "junk.qcow2: this is not a qcow2 image; a raw disk's file is FILE.raw"),
        ("junk.QCOW2", 4096, "this is not a qcow2 image"),
        ("junk.img", 2, "junk.img: this is no disk, it has 2 bytes"),
        ("junk.raw", 0, "junk.raw: this is no disk, it has 0 bytes"),
    ],
)
def test_junk_is_no_disk(
    images: Images, tmp_path: Path, name: str, size: int, message: str
) -> None:
    (tmp_path / name).write_bytes(b"x" * size)

    with pytest.raises(ImageError, match=re.escape(message)):
        import_image(str(tmp_path / name), images, silent)
    assert images.list() == []
