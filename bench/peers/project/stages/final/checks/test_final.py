def test_greeting(host):
    assert "plain" in host.file("/etc/motd").content_string


def test_numpy_computes(host):
    assert host.run("python3 -c 'import numpy; print(numpy.arange(4).sum())'").stdout == "6\n"


def test_sshd_accepts_its_configuration(host):
    assert host.run("sshd -t").rc == 0
