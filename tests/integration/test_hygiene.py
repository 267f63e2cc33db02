"""What is looked for in the files of a disk that ships: of its root, and of its EFI partition."""

import pytest

from builder import process
from builder.partitions import RootFileSystem, root_partition
from builder.release.hygiene import POINTS, READ, hygiene_results

pytestmark = pytest.mark.integration

MIB = 1 << 20
ESP_START = MIB
LAYOUT = "label: {label}\nstart=1M, size=8M, type=U\nstart=9M, size=48M, type=L\n"
KEY = "-----BEGIN PRIVATE KEY-----\n"
SEED, PRIVATE = "hygiene::no random seed", "hygiene::no private key"
TOKEN = "hygiene::no token"


@pytest.fixture(autouse=True)
def _programs(require_program):
    for name in ("debugfs", "mcopy", "mkfs.ext4", "mkfs.vfat", "mmd", "mattrib", "sfdisk"):
        require_program(name)


@pytest.fixture
def disk(tmp_path):
    """A raw disk with an empty EFI system partition, and a root file system with no more than /etc.

    Called with the kind of its partition table and the names of folders in its root.
    """

    def make(label: str = "gpt", *folders: str):
        raw, tree = tmp_path / "disk.raw", tmp_path / "tree"
        for folder in ("etc", *folders):
            (tree / folder).mkdir(parents=True, exist_ok=True)
        with raw.open("wb") as file:
            file.truncate(64 * MIB)
        process.run(["sfdisk", "--quiet", raw], stdin=LAYOUT.format(label=label))
        esp = ["--offset", str(ESP_START // 512), raw, str(8 * MIB // 1024)]
        process.run(["mkfs.vfat", *esp])
        start, size = root_partition(raw)
        options = ["-q", "-F", "-E", f"offset={start}", "-d", tree]
        process.run(["mkfs.ext4", *options, raw, str(size // 1024)])
        return raw

    return make


@pytest.fixture
def put(tmp_path):
    """Call it with a disk, a file on its EFI system partition, and that file's text."""

    def write(raw, name: str, text: str) -> None:
        partition, file = f"{raw}@@{ESP_START}", tmp_path / "put"
        file.write_text(text)
        process.run(["mmd", "-i", partition, f"::{name.partition('/')[0]}"], check=False)
        process.run(["mcopy", "-i", partition, file, f"::{name}"])

    return write


def failed(raw, work) -> dict[str, str]:
    said = list(hygiene_results(RootFileSystem.find(raw), work))
    assert [one.name for one in said] == [READ, *POINTS]
    assert not (work / "files").exists()
    return {one.name: one.message for one in said if one.outcome != "passed"}


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_an_esp_with_nothing_but_a_loader_passes(disk, put, tmp_path, label):
    raw = disk(label)
    assert failed(raw, tmp_path) == {}
    put(raw, "EFI/BOOTX64.EFI", "a loader")
    assert failed(raw, tmp_path) == {}


@pytest.mark.parametrize("label", ["gpt", "dos"])
def test_what_was_left_on_the_esp_is_found(disk, put, tmp_path, label):
    raw = disk(label)
    put(raw, "loader/random-seed", "x")
    assert failed(raw, tmp_path) == {SEED: "E /efi/loader/random-seed"}
    put(raw, "EFI/mok.key", KEY)
    assert failed(raw, tmp_path).keys() == {SEED, PRIVATE}


def test_names_are_found_however_they_are_written(disk, put, tmp_path):
    raw = disk()
    put(raw, "LOADER/Random-SEED", "x")
    assert failed(raw, tmp_path).keys() == {SEED}


def test_hidden_files_are_found(disk, put, tmp_path):
    raw = disk()
    put(raw, "loader/random-seed", "x")
    process.run(["mattrib", "+h", "+s", "-i", f"{raw}@@{ESP_START}", "::loader/random-seed"])
    assert failed(raw, tmp_path).keys() == {SEED}


@pytest.mark.parametrize(
    ("name", "text", "points"),
    [
        ("opt/venvs/default/lib/python3.13/site-packages/x/y/key.pem", KEY, {PRIVATE}),
        ("usr/local/etc/site.key", KEY, {PRIVATE}),
        ("var/lib/dkms/mok.key", KEY, {PRIVATE, "hygiene::no file of credentials"}),
        ('srv/a "name" with all/that may be in one', f"hf_{34 * '0'}", {TOKEN}),
        ("opt/models/weights", KEY + (1 << 20) * "x", set()),
    ],
    ids=["deep", "local", "DKMS", "name", "large"],
)
def test_what_a_role_brought_is_looked_at_where_it_is_small(disk, tmp_path, name, text, points):
    path = tmp_path / "tree" / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    (path.parent / "link").symlink_to("/etc/shadow")
    assert failed(disk(), tmp_path).keys() == points


def test_a_link_in_the_place_of_a_folder_is_not_followed(disk, tmp_path):
    (tmp_path / "tree/var").mkdir(parents=True)
    (tmp_path / "tree/var/key").write_text(KEY)
    (tmp_path / "tree/opt").symlink_to("var")
    assert failed(disk(), tmp_path) == {}


def test_an_esp_that_cannot_be_read_is_told(disk, tmp_path):
    raw = disk()
    with raw.open("r+b") as file:
        file.seek(ESP_START)
        file.write(bytes(4096))
    assert "the EFI system partition at byte 1048576: " in failed(raw, tmp_path)[READ]


def test_a_root_that_is_none_is_told(disk, tmp_path):
    raw = disk()
    start, _ = root_partition(raw)
    process.run(["debugfs", "-w", "-R", "rmdir /etc", f"{raw}?offset={start}"])
    assert failed(raw, tmp_path) == {READ: "E its root file system has no /etc"}
