"""The base image: a boot without failures, logins by key alone."""


def test_no_unit_failed(host):
    listing = host.check_output("systemctl list-units --failed --plain --no-legend")
    failed = {line.split()[0] for line in listing.splitlines()}
    # The root of a container is mounted by whoever started it and cannot be mounted again.
    assert failed <= {"systemd-remount-fs.service"}


def test_ssh_takes_keys_alone(host):
    assert "passwordauthentication no" in host.check_output("sshd -T").lower().splitlines()
