"""Archives, good and hostile, read into file systems."""

import io
import tarfile
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ringlet.errors import ImageError
from ringlet.images import tarball, tree
from ringlet.images.ext4 import GROUP_BYTES, Ext4Writer
from ringlet.images.headers import Spent
from ringlet.images.tarball import add_tar
from ringlet.images.tree import Tree
from tests.unit.images.archives import (
    NEEDS_E2FSPROGS,
    ask,
    check,
    content,
    folder,
    link,
    listed,
    member,
    tar,
)

pytestmark = NEEDS_E2FSPROGS


class Made:
    """A file system made of archives, one layer above the other."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "image"
        self.writer = Ext4Writer(self.path, GROUP_BYTES)
        self.tree = Tree()

    def add(self, data: bytes, *, layer: bool = False) -> None:
        add_tar(io.BytesIO(data), "test.tar", self.tree, self.writer, layer=layer)

    def finish(self) -> Path:
        self.writer.finish(self.tree)
        self.writer.close()
        check(self.path)
        return self.path


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made(tmp_path)
    yield made
    made.writer.close()


def of_layers(made: Made, *layers: Sequence[tuple[tarfile.TarInfo, bytes]]) -> Path:
    for layer in layers:
        made.add(tar(layer), layer=True)
    return made.finish()


def test_an_attributes_name_is_bytes(made: Made) -> None:
    data = b"26 SCHILY.xattr.user.a\xff=\xfe\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(data)
    made.add(header.tobuf() + data.ljust(512, b"\0") + tar([member("a")]))

    assert b"\xff" in made.finish().read_bytes()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_large_numbers(made: Made, form: int) -> None:
    name = "/".join(["d" * 90, "e" * 90, "f" * 200])
    made.add(tar([member(name, b"data", uid=3_000_000, gid=4_000_000)], form))

    image = made.finish()

    assert content(image, f"/{name}") == b"data"
    assert "User: 3000000" in ask(image, f"stat /{name}")


def test_a_sparse_file(made: Made) -> None:
    # Version 1.0 of GNU's sparse form: a map, and then the parts that are not holes.
    info, data = member("sparse", b"1\n8192\n4\n".ljust(512, b"\0") + b"data")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
        "GNU.sparse.realsize": "16384",
    }  # fmt: skip
    made.add(tar([(info, data)]))

    assert content(made.finish(), "/sparse") == bytes(8192) + b"data" + bytes(8188)


def test_capabilities_of_programs(made: Made) -> None:
    info, data = member("ping", b"program")
    info.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
    made.add(tar([(info, data)]))

    assert "security.capability" in ask(made.finish(), "ea_list /ping")


def test_hard_links_share_their_file(made: Made) -> None:
    made.add(tar([member("a", b"data"), link("d/b", "a", hard=True)]))

    image = made.finish()

    assert content(image, "/d/b") == b"data"
    assert "Links: 2" in ask(image, "stat /a")


def test_links_on_the_way_are_followed_within_the_image(made: Made) -> None:
    made.add(
        tar([folder("usr"), folder("usr/bin"), link("bin", "/usr/bin"), member("bin/sh", b"x")])
    )

    assert listed(made.finish(), "/usr/bin") == ["sh"]


def test_a_link_cannot_lead_out_of_the_image(made: Made, tmp_path: Path) -> None:
    made.add(tar([link("out", f"../../../..{tmp_path}"), member("out/file", b"x")]))

    image = made.finish()

    assert content(image, f"{tmp_path}/file") == b"x"
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("layer", [False, True])
def test_a_directory_does_not_replace_a_link_to_a_directory(made: Made, *, layer: bool) -> None:
    made.add(tar([folder("usr/bin"), link("bin", "usr/bin")]), layer=layer)
    made.add(tar([folder("bin"), member("bin/sh", b"x")]), layer=layer)

    assert listed(made.finish(), "/usr/bin") == ["sh"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../etc/passwd")], "names a file outside of itself"),
        ([member("a/../../b")], "names a file outside of itself"),
        ([link("a", "/etc/passwd", hard=True)], "a hard link to what is no file before it"),
        ([link("a", "../../x", hard=True)], "names a file outside of itself"),
        ([folder("d"), link("a", "d", hard=True)], "a hard link to what is no file"),
        ([member("n" * 300)], "no file system can hold a file of this name"),
        ([link("a", "x" * 5000)], "no file system can hold this symbolic link"),
        ([link("a", "b"), link("b", "a"), member("a/x")], "too many symbolic links"),
        ([member("/".join(["d"] * 300))], "nested too deeply"),
        ([member("dev", type=tarfile.CHRTYPE, devmajor=9999)], "numbers are out of range"),
    ],
    ids=str,
)
def test_hostile_members(
    made: Made, members: Sequence[tuple[tarfile.TarInfo, bytes]], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        made.add(tar(members))
    made.writer.close()


def test_device_files_are_only_written_to_the_image(made: Made) -> None:
    made.add(tar([member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)]))

    assert "Device major/minor number: 01:03" in ask(made.finish(), "stat /null")


def test_an_absolute_name_is_one_of_the_image(made: Made) -> None:
    made.add(tar([member("/etc/motd", b"x")]))

    assert listed(made.finish(), "/etc") == ["motd"]


def test_a_bomb_ends_where_the_image_ends(made: Made) -> None:
    info, _ = member("bomb")
    info.size = 1 << 40
    with pytest.raises(ImageError, match="do not fit into an image"):
        made.add(info.tobuf() + bytes(10240))
    made.writer.close()


@pytest.mark.parametrize("data", [b"x" * 10240, tar([member("a", bytes(5000))])[:2048]])
def test_what_is_no_whole_archive(made: Made, data: bytes) -> None:
    with pytest.raises(ImageError):
        made.add(data)
    made.writer.close()


def test_a_whiteout_removes_what_is_below(made: Made) -> None:
    image = of_layers(made, [member("a"), member("b")], [member(".wh.a")])

    assert listed(image) == ["b"]


def test_a_whiteout_removes_a_directory_with_all_in_it(made: Made) -> None:
    image = of_layers(made, [member("d/a"), member("e")], [member(".wh.d")])

    assert listed(image) == ["e"]


def test_a_whiteout_leaves_what_its_own_layer_has(made: Made) -> None:
    image = of_layers(made, [member("d/old")], [member("d/new"), member(".wh.d")])

    assert listed(image, "/d") == ["new"]


def test_an_opaque_directory_hides_what_is_below(made: Made) -> None:
    layers = [member("d/old"), member("d/s/old"), member("e")], [
        folder("d"), member("d/new"), member("d/.wh..wh..opq"), member("d/s/new"),
    ]  # fmt: skip
    image = of_layers(made, *layers)

    assert listed(image, "/d") == ["new", "s"]
    assert listed(image, "/d/s") == ["new"]
    assert listed(image) == ["d", "e"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "x/.wh.y", ".wh..wh.plnk"])
def test_odd_whiteouts_remove_nothing(made: Made, name: str) -> None:
    assert listed(of_layers(made, [member("a")], [member(name)])) == ["a"]


def test_a_whiteout_leaves_what_its_own_layer_has_behind_a_link(made: Made) -> None:
    layers = [member("usr/lib/old"), link("lib", "usr/lib")], [
        member("lib/new"), member("usr/lib/.wh.new"), member("usr/lib/.wh.old"),
    ]  # fmt: skip

    assert listed(of_layers(made, *layers), "/usr/lib") == ["new"]


def test_a_whiteout_has_no_content(made: Made) -> None:
    with pytest.raises(ImageError, match=r"'.wh.a': the mark of a removed file has 5000 bytes"):
        made.add(tar([member(".wh.a", bytes(5000))]), layer=True)


def test_what_whiteouts_look_at_is_bounded(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarball, "MAX_REMOVED", 50)
    own = [folder("d"), *(member(f"d/{n}") for n in range(20))]
    made.add(tar([*own, *[member(".wh.d")] * 2]), layer=True)

    with pytest.raises(ImageError, match="remove more than 50 files"):
        made.add(tar([*own, *[member(".wh.d")] * 3]), layer=True)


def test_what_whiteouts_look_at_is_bounded_for_all_layers(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarball, "MAX_REMOVED", 50)
    layer = tar([folder("d"), *(member(f"d/{n}") for n in range(20)), member(".wh.d")])
    spent = Spent()

    for _ in range(2):
        add_tar(io.BytesIO(layer), "a", made.tree, made.writer, layer=True, spent=spent)
    with pytest.raises(ImageError, match="layers that remove more than 50 files"):
        add_tar(io.BytesIO(layer), "a", made.tree, made.writer, layer=True, spent=spent)


def peak(made: Made, layer: bytes) -> int:
    """Return the most memory that it takes to read a layer, in bytes."""
    tracemalloc.start()
    try:
        made.add(layer, layer=True)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_whiteouts_with_long_headers_take_no_memory(made: Made) -> None:
    headers = {"comment": "a" * 900_000}
    layer = tar([member(f".wh.{n}", pax_headers=headers) for n in range(20)])

    assert peak(made, layer) < 8_000_000


def test_deep_paths_take_no_memory(made: Made) -> None:
    layer = tar([member(f"{n}/" + "/".join(["d" * 16] * 200)) for n in range(50)])

    assert peak(made, layer) < 12_000_000  # a directory takes less than 1 KB


def test_paths_through_links_take_no_memory(made: Made) -> None:
    # Each link leads 15 directories further down, and a character outside the BMP makes each text
    # of a path four times as long.
    way = "/".join(chr(ord("a") + n) * 255 for n in range(15))
    members, base = [folder("\N{GRINNING FACE}")], "\N{GRINNING FACE}"
    for number in range(16):
        members += [folder(f"{base}/{way}"), link(f"l{number}", f"{base}/{way}")]
        base = f"l{number}"
    made.add(tar([*members, *(member(f"{base}/{n:x}") for n in range(400))]))

    tracemalloc.start()
    try:
        made.writer.finish(made.tree)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert most < 8_000_000
    check(made.path)


def chain(end: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return links s0 to s38 to each other, with the longest targets, and then to `end`."""
    names = [f"s{n}" for n in range(39)]
    targets = ["a/../" * ((4085 - len(name)) // 5) + name for name in (*names[1:], end)]
    return [folder("a"), *map(link, names, targets)]


@pytest.mark.parametrize("layer", [False, True])
@pytest.mark.parametrize(
    "name", ["s0/a", "s0/b/c", "s0/.wh.x"], ids=["file", "directory", "whiteout"]
)
def test_steps_through_links_are_bounded_together(
    made: Made, monkeypatch: pytest.MonkeyPatch, name: str, *, layer: bool
) -> None:
    monkeypatch.setattr(tree, "MAX_STEPS", 1_000_000)

    with pytest.raises(ImageError, match=r"^more than 1000000 steps through directories and links"):
        made.add(tar([*chain("a"), *[member(name)] * 30]), layer=layer)


def test_steps_to_the_targets_of_hard_links_are_counted(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_STEPS", 1_000_000)
    links = [link(f"l{n}", "s0/x", hard=True) for n in range(30)]

    with pytest.raises(ImageError, match="steps through directories"):
        made.add(tar([*chain("a"), member("a/x"), *links]))


@pytest.mark.parametrize("target", ["/" * 4094 + "a", "\udcff" * 4095], ids=["slashes", "bytes"])
def test_steps_count_what_a_target_takes_to_read(
    made: Made, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(tree, "MAX_STEPS", 2_000)

    with pytest.raises(ImageError, match="steps through directories"):
        made.add(tar([link("l", target), *[member("l/.wh.x")] * 30]), layer=True)


def test_a_whiteout_behind_links_that_lead_nowhere_takes_the_links_once(made: Made) -> None:
    made.add(tar(chain("nowhere")), layer=True)
    before = made.tree.steps

    made.add(tar([member("s0/.wh.x")]), layer=True)

    assert made.tree.steps - before < 100_000


def test_an_ordinary_file_takes_few_steps(made: Made) -> None:
    made.add(tar([folder("usr/lib"), link("lib", "usr/lib")]), layer=True)
    before = made.tree.steps

    made.add(tar([member(f"lib/python3/dist-packages/p/{n}.py") for n in range(100)]), layer=True)

    assert made.tree.steps - before < 30 * 100
    assert tree.MAX_STEPS > 30 * tree.MAX_FILES


@pytest.mark.parametrize("end", ["d", "file"])
def test_a_directory_in_place_of_a_link(made: Made, end: str) -> None:
    made.add(tar([folder("d"), member("file"), link("b", end), link("a", "x/../b"), folder("x")]))
    made.add(tar([folder("a"), member("a/new")]))

    assert listed(made.finish(), "/a" if end == "file" else "/d") == ["new"]


@pytest.mark.parametrize(
    "members",
    [[member("n" * 200)], [link("a", "t" * 200)], [folder("d" * 200)], [member(f"{'d' * 200}/a")],
     [member("a", pax_headers={"SCHILY.xattr.user.a": "v" * 200})],
     [member("n" * 40 + "\N{GRINNING FACE}")]],
    ids=["name", "target", "directory", "above", "attribute", "wide"],
)  # fmt: skip
def test_names_and_attributes_are_bounded_together(
    made: Made, monkeypatch: pytest.MonkeyPatch, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    monkeypatch.setattr(tree, "MAX_TEXT", 150)

    with pytest.raises(ImageError, match="are too long for an image"):
        made.add(tar(members))


def test_whiteouts_are_plain_files_in_an_archive_that_is_no_layer(made: Made) -> None:
    made.add(tar([member("a"), member(".wh.a")]))

    assert listed(made.finish()) == [".wh.a", "a"]


def test_a_layer_replaces_a_file_by_a_directory(made: Made) -> None:
    image = of_layers(made, [member("a")], [folder("a"), member("a/b", b"x")])

    assert content(image, "/a/b") == b"x"
