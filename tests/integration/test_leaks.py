"""A key of a build, found in a disk: with a real key, and a real file system around it."""

import pytest

from builder.engines.keys import make_keys, public_key_in
from builder.partitions import RootFileSystem
from builder.release.leaks import KEY, key_needles, leak_results, search

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture
def keys(tmp_path, require_program):
    require_program("ssh-keygen")
    return make_keys(tmp_path)


@pytest.mark.parametrize("half", ["public", "private"])
def test_either_half_is_found_in_the_file_that_has_it(
    tmp_path, keys, half, raw_disk, require_program
):
    for name in ("debugfs", "dumpe2fs", "mkfs.ext4", "sfdisk"):
        require_program(name)
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    text = keys.public if half == "public" else keys.private.read_text()
    (tree / "etc/left behind").write_text(f"somebody left this:\n{text}\n")
    raw = raw_disk("disk.raw", tree)
    hits = search(raw, key_needles([public_key_in(tmp_path)]))
    (found,) = [one for one in leak_results(hits, RootFileSystem.find(raw)) if one.name == KEY]
    assert found.message == f"E the {half} key of a build is in /etc/left behind"


def test_a_byte_of_no_file_belongs_to_none(tmp_path, keys, raw_disk, require_program):
    for name in ("debugfs", "dumpe2fs", "mkfs.ext4", "sfdisk"):
        require_program(name)
    (tmp_path / "tree").mkdir()
    raw = raw_disk("disk.raw", tmp_path / "tree")
    with raw.open("r+b") as file:
        file.seek(40 * MIB)
        file.write(keys.public.encode())
    root = RootFileSystem.find(raw)
    (hit,) = search(raw, key_needles([public_key_in(tmp_path)]))
    assert root.owner(hit.offset) is None
    assert root.owner(100) is None, "it lies before the file system"
