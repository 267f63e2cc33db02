def test_packages(host):
    for name in ("docker.io", "openssh-server", "python3-numpy"):
        assert host.package(name).is_installed


def test_docker_keeps_little_log(host):
    assert host.file("/etc/docker/daemon.json").contains("max-size")


def test_one_kernel_boots(host):
    kernels = host.run("ls /boot/vmlinuz-*").stdout.split()
    assert len(kernels) == 1
    assert host.file("/boot/grub/grub.cfg").contains(kernels[0].removeprefix("/boot/"))
