"""What the root disk's boot loader reads; integration/test_sources.py makes a disk."""

import pytest

from builder.errors import VaultbuildError
from builder.sources import rootdisk

CMDLINE = "console=tty0 console=ttyS0,115200"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "boot").mkdir()
    return tmp_path


def install(root, *kernels: str) -> None:
    for kernel in kernels:
        (root / f"boot/vmlinuz-{kernel}").touch()
        (root / f"boot/initrd.img-{kernel}").touch()


def test_the_one_kernel_boots(root):
    install(root, "6.12.57+deb13-cloud-amd64")
    assert rootdisk.boot_entry(root, CMDLINE).kernel == "6.12.57+deb13-cloud-amd64"


@pytest.mark.parametrize(
    ("kernels", "found"),
    [([], "found: none"), (["6.1", "6.12"], "found: 6.1, 6.12")],
    ids=["none", "two"],
)
def test_any_other_number_of_kernels_is_a_mistake(root, kernels, found):
    install(root, *kernels)
    with pytest.raises(VaultbuildError, match=found) as caught:
        rootdisk.boot_entry(root, CMDLINE)
    assert "linux-image" in caught.value.hint


def test_grub_names_the_root_by_its_label_and_no_device():
    text = rootdisk.BootEntry("6.12", CMDLINE).grub_cfg()
    assert f"root=LABEL={rootdisk.ROOT_LABEL} ro {CMDLINE}" in text
    assert "/boot/vmlinuz-6.12" in text
    assert "/boot/initrd.img-6.12" in text
    assert "/dev/" not in text


def test_a_label_fits_into_ext4():
    assert len(rootdisk.ROOT_LABEL) <= 16
