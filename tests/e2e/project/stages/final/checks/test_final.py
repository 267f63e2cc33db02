"""The final image: what its role wrote, and nothing of the build."""


def test_greeting(host, expected):
    assert host.file("/etc/greeting").content_string.strip() == expected["greeting_text"]


def test_package_came(host):
    assert host.package("hello").is_installed


def test_no_trace_of_the_caches(host):
    assert host.run("grep -rl -e 127.0.0.1 -e 10.0.2.100 /etc/apt /etc/pip.conf").stdout == ""
