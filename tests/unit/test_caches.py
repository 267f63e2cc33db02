"""The URLs that builds are given, and the settings that leave nothing to start."""

from __future__ import annotations

import http.server
import threading

import pytest

from builder import caches
from builder.caches import Address, Endpoints, Status
from builder.caches.apt import upstream_proxy
from builder.caches.http import ask
from builder.caches.pypi import Upstream, pip_settings, server_of
from builder.caches.state import Terms
from builder.errors import HostError, ProjectError

OWN = Endpoints(
    {"apt": "http://127.0.0.1:20001", "pypi": "http://127.0.0.1:20002/vaultbuild/private/+simple/"},
    stale={"apt": "http://127.0.0.1:20003"},
)


def test_the_engines_learn_which_ports_to_forward():
    assert OWN.addresses == {
        "apt": Address("127.0.0.1", 20001),
        "pypi": Address("127.0.0.1", 20002),
    }


@pytest.mark.parametrize(
    ("url", "port"), [("http://cache", 80), ("https://cache/x", 443), ("http://cache:3142/", 3142)]
)
def test_a_url_without_a_port_has_its_scheme_s(url, port):
    assert Endpoints({"apt": url}).addresses["apt"] == Address("cache", port)


def test_a_guest_sees_the_same_paths_at_another_host():
    assert OWN.seen_at("10.0.2.100") == Endpoints(
        {
            "apt": "http://10.0.2.100:20001",
            "pypi": "http://10.0.2.100:20002/vaultbuild/private/+simple/",
        }
    )


def test_a_guest_may_see_other_ports():
    assert OWN.seen_at("127.0.0.1", {"apt": 3142}).apt == "http://127.0.0.1:3142"


TEAM = {"apt": {"url": "http://cache:3142"}, "pypi": {"url": "http://cache/index/+simple/"}}


def test_given_urls_are_used_and_nothing_is_started(tmp_path):
    with caches.running(TEAM, tmp_path) as endpoints:
        assert endpoints == Endpoints({name: each["url"] for name, each in TEAM.items()})
    assert not list(tmp_path.iterdir())


def test_a_project_without_configuration_of_the_caches_is_told_so(tmp_path):
    with pytest.raises(ProjectError, match="cache/etc"), caches.running({}, tmp_path):
        pass


def test_what_does_not_run_is_stopped(tmp_path):
    (tmp_path / "cache/etc").mkdir(parents=True)
    assert caches.status({}, tmp_path) == [Status(name, "stopped", None) for name in caches.NAMES]
    assert caches.status({}, tmp_path, ["isos"]) == [Status("isos", "stopped", None)]


@pytest.fixture
def team_cache():
    """A server that answers as both kinds of cache do."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "apiconfig", "by": "apt-cacher-ng"}')

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_remote_cache_is_asked(team_cache, tmp_path):
    settings = {"apt": {"url": team_cache}, "pypi": {"url": f"{team_cache}/root/pypi/+simple/"}}
    assert [status.state for status in caches.status(settings, tmp_path, settings)] == [
        "remote",
        "remote",
    ]


def test_a_remote_cache_that_does_not_answer_is_unreachable(tmp_path):
    settings = {name: {"url": "http://127.0.0.1:9"} for name in ("apt", "pypi")}
    assert {status.state for status in caches.status(settings, tmp_path, settings)} == {
        "unreachable"
    }


def test_nothing_of_a_login_is_in_what_is_told_of_a_remote_cache(team_cache, tmp_path):
    login = "//builder:s3cret@"
    settings = {
        "apt": {"url": team_cache.replace("//", login)},
        "pypi": {"url": f"http:{login}127.0.0.1:9/root/pypi/+simple/"},
    }
    told = [(each.state, each.url) for each in caches.status(settings, tmp_path, settings)]
    assert told[0][1] == team_cache
    assert told[1] == ("unreachable", "http://127.0.0.1:9/root/pypi/+simple/")


def test_a_proxy_of_the_environment_is_not_used_for_caches(team_cache, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert ask(team_cache).status == 200


def test_a_server_that_is_not_there_is_an_answer_too():
    assert ask("http://127.0.0.1:9/").status == 0
    assert ask("http://127.0.0.1:9/").json() == {}


@pytest.fixture
def apt_configuration(tmp_path, monkeypatch):
    """The host's apt configuration, replaced by one that a test writes."""
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    monkeypatch.delenv("http_proxy", raising=False)
    return tmp_path / "apt.conf"


@pytest.mark.parametrize(
    ("line", "proxy"),
    [
        ('Acquire::http::Proxy "http://proxy.example:8080/";', "http://proxy.example:8080/"),
        ('Acquire::http::Proxy "DIRECT";', None),
        ("", None),
    ],
)
def test_the_proxy_of_the_host_s_apt_is_inherited(line, proxy, apt_configuration, require_program):
    require_program("apt-config")
    apt_configuration.write_text(line)
    assert upstream_proxy() == proxy


def test_without_one_the_environment_s_is(apt_configuration, monkeypatch):
    apt_configuration.write_text("")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert upstream_proxy() == "http://proxy.example:3128"


@pytest.fixture
def pip_configuration(tmp_path, monkeypatch):
    """The host's pip configuration, replaced by one that a test writes."""
    for name in ("PIP_INDEX_URL", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path / "pip.conf"


def test_pip_s_index_is_inherited(pip_configuration):
    pip_configuration.write_text("[global]\nindex-url = https://index.example/simple\n")
    assert pip_settings()["index-url"] == "https://index.example/simple"


def test_the_environment_overrules_pip_s_files(pip_configuration, monkeypatch):
    pip_configuration.write_text("[global]\nindex-url = https://index.example/simple\n")
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert pip_settings()["index-url"] == "https://other.example/simple"


# --- an upstream with a password ------------------------------------------------------------------


def test_a_password_is_taken_out_of_the_url_of_an_index():
    found = Upstream.of("https://me:p%40ss@index.example/simple")
    assert found == Upstream("https://index.example/simple/", "me:p@ss")
    assert "me" not in found.mirror


def test_each_upstream_has_a_mirror_of_its_own_and_its_password_does_not_matter():
    assert Upstream.of(None).mirror == "root/pypi"
    one, two = Upstream.of("https://a.example/simple"), Upstream.of("https://b.example/simple")
    assert len({one.mirror, two.mirror, "root/pypi"}) == 3
    assert Upstream.of("https://me:x@a.example/simple/").mirror == one.mirror


def test_an_index_with_a_query_is_refused_without_telling_it():
    with pytest.raises(HostError) as caught:
        Upstream.of("https://index.example/simple/?token=s3cr3t")
    assert "s3cr3t" not in caught.value.message + str(caught.value.hint)


@pytest.mark.parametrize(
    "url",
    ["http://c:1/root/pypi/+simple/", "http://c:1/vaultbuild/private/+simple", "http://c:1/"],
)
def test_the_server_of_an_index_is_known(url):
    assert server_of(url) == "http://c:1"


@pytest.mark.parametrize(
    ("listen", "root"),
    [
        ("127.0.0.1", "http://127.0.0.1:3142"),
        ("0.0.0.0", "http://127.0.0.1:3142"),  # noqa: S104
        ("192.0.2.7", "http://192.0.2.7:3142"),
        ("::", "http://[::1]:3142"),
    ],
)
def test_this_host_reaches_a_server_where_it_listens(listen, root):
    assert Terms(3142, listen).root == root
