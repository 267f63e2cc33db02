"""What a guest may reach, who may answer it, what a cache has on disk, and what it saved."""

import pytest

from builder.fetch.breaker import Breakers
from builder.gateway.ledger import Ledger
from builder.gateway.rules import Address, Rules, address_of, archives_in, asked_for, authority
from builder.gateway.sources import AptSources, IndexSources, Pauses, Source, alternatives
from builder.gateway.stock import AptStock, PypiStock, Storekeeper, digest_in, kind_of
from builder.gateway.tally import Sum, Tally, sums, traffic
from builder.network import Entry, Traffic

MIRROR = Address("mirror.example", 80)
FILES = Address("files.example", 443)


# --- rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://mirror.example/debian/x.deb", "mirror.example:80"),
        ("http://mirror.example:8080/x", "mirror.example:8080"),
        ("https://mirror.example/x", "mirror.example:443"),
        ("http://HTTPS///repo.example/x.deb", "repo.example:443"),
        ("http://https///repo.example:8443/x.deb", "repo.example:8443"),
        ("http://MIRROR.example./x", "mirror.example:80"),
        ("http://[::1]:80/x", "[::1]:80"),
    ],
)
def test_where_a_url_leads(url, address):
    assert str(address_of(url)) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "/x", "ftp://a/x", "http://a:x/", "http:///x", "http://a:0/", "http://a:70000/",
        # What another program could understand in another way.
        "http://127.0.0.1%2F@mirror.example/x", "http://user:word@mirror.example/x",
        "http://127.0.0.1\\@mirror.example/x", "http://mirror.example#@127.0.0.1/",
        "http://mirror.example?@127.0.0.1/", "http://httpsmirror.example\n/", "http://[::1%25lo]/",
        "http://mirror.example/\u00e9", "http://mirror.example/a b", "http://HTTPS//mirror.example/x",
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere(url):
    found = asked_for(url)
    assert found is None or found.address.host not in {"127.0.0.1", "mirror.example"}


def test_what_is_handed_on_is_made_anew():
    assert asked_for("HTTP://Mirror.Example:80/x?y").url == "http://mirror.example/x?y"
    assert asked_for("http://https///repo.example/x").url == "http://HTTPS///repo.example/x"
    assert asked_for("http://HTTPS///r.example:444/x").url == "http://HTTPS///r.example:444/x"
    assert asked_for("http://mirror.example").url == "http://mirror.example/"


def test_connect_names_a_host_and_a_port():
    assert authority("files.example:443") == FILES
    assert authority("files.example") == FILES
    assert authority("[::1]:22") == Address("::1", 22)
    assert authority("files.example/:443") is None
    assert authority("user@files.example:443") is None


def test_archives_are_those_of_the_lines_of_a_list_of_sources():
    lines = [
        "deb http://mirror.example/debian trixie main",
        "deb [signed-by=/usr/share/keyrings/x.gpg] https://files.example/repo ./",
    ]
    assert archives_in(lines) == {MIRROR, FILES}


def test_by_default_the_archives_are_reached_through_the_cache_and_nothing_else():
    rules = Rules(archives=frozenset({MIRROR}))
    assert rules.plain(MIRROR) == "cache"
    assert rules.plain(Address("mirror.example", 8080)) == "refuse"
    assert rules.plain(Address("other.example", 80)) == "refuse"
    assert not rules.beside_the_cache(FILES)
    assert not rules.beside_the_cache(MIRROR)


def test_a_stage_names_hosts():
    rules = Rules(hosts=frozenset({"files.example", "*.cdn.example"}))
    assert rules.beside_the_cache(FILES)
    assert rules.plain(address_of("http://FILES.example./x")) == "cache"
    assert not rules.beside_the_cache(Address("files.example", 22))
    assert rules.beside_the_cache(Address("a.b.cdn.example", 443))
    assert not rules.beside_the_cache(Address("cdn.example", 443))
    assert not rules.beside_the_cache(Address("evilcdn.example", 443))


def test_a_port_of_a_host_is_named_with_it():
    rules = Rules(hosts=frozenset({"git.example:22"}))
    assert rules.beside_the_cache(Address("git.example", 22))
    assert not rules.beside_the_cache(Address("git.example", 443))


def test_a_team_s_cache_is_reached_and_nothing_beside_it():
    rules = Rules(teams=frozenset({Address("127.0.0.1", 3142)}), offline=True)
    assert rules.plain(Address("127.0.0.1", 3142)) == "direct"
    assert rules.may_lead_back(Address("127.0.0.1", 3142))
    assert rules.plain(Address("127.0.0.1", 631)) == "refuse"
    assert not rules.may_lead_back(Address("127.0.0.1", 631))


def test_a_name_that_leads_back_to_the_host_is_not_the_host_s_own_name():
    """Whoever serves a name decides what number it has."""
    rules = Rules(hosts=frozenset({"*.cdn.example", "files.example", "127.0.0.1"}))
    assert not rules.may_lead_back(Address("a.cdn.example", 80))
    assert not rules.may_lead_back(Address("files.example", 80))
    assert rules.may_lead_back(Address("127.0.0.1", 80))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "localhost", "x.localhost", "::1", "169.254.169.254",
             "fe80::1", "::", "224.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
             "2002:7f00:1::", "64:ff9b::7f00:1", "fd00:ec2::254"]
)  # fmt: skip
def test_an_open_network_does_not_lead_back_to_the_host(host):
    rules = Rules(mode="open")
    assert rules.beside_the_cache(FILES)
    assert rules.plain(Address("other.example", 80)) == "direct"
    assert not rules.beside_the_cache(Address(host, 80))
    assert rules.plain(Address(host, 80)) == "refuse"
    assert Rules(mode="open", hosts=frozenset({host})).beside_the_cache(Address(host, 80))


def test_offline_nothing_is_fetched_past_the_caches():
    rules = Rules("open", frozenset({MIRROR}), frozenset({"files.example"}), offline=True)
    assert not rules.beside_the_cache(FILES)
    assert rules.plain(MIRROR) == "cache"


# --- sources --------------------------------------------------------------------------------------


QUICK = Pauses(attempts=2, first=0)
CACHE = Address("127.0.0.1", 3142)
DEB = "http://mirror.example/debian/pool/x.deb"


def apt(mirrors=(), breakers=None, alone=None, said=None):
    return AptSources(
        CACHE,
        {"http://mirror.example/debian": list(mirrors)},
        breakers,
        lambda _: alone,
        (said if said is not None else []).append,
        QUICK,
    )


def test_the_cache_is_asked_for_each_mirror_some_times_and_then_by_itself():
    said = []
    found = list(apt(["http://b.example/d/"], alone=Address("127.0.0.1", 9), said=said).of(DEB))
    assert [(each.target, each.stale) for each in found] == [
        (DEB, False), (DEB, False),
        ("http://b.example/d/pool/x.deb", False), ("http://b.example/d/pool/x.deb", False),
        (DEB, True),
    ]  # fmt: skip
    assert said == [
        "http://mirror.example:80 does not answer: going on with http://b.example:80",
        "http://mirror.example:80 does not answer: going on with what the cache has",
    ]


@pytest.fixture
def breakers(tmp_path):
    return Breakers(tmp_path / "breakers", failures=2)


def refuse(sources, times=2):
    """Let the mirror fail."""
    source = Source(CACHE, DEB, upstream="http://mirror.example:80")
    for _ in range(times):
        sources.failed(source, "503 busy")
    return source


def test_an_upstream_whose_breaker_is_open_is_left_out(breakers):
    refuse(apt([], breakers))
    found = [each.target for each in apt(["http://b.example/d"], breakers).of(DEB)]
    assert found == ["http://b.example/d/pool/x.deb"] * 2
    # With no other, the cache may have it all the same.
    assert [each.upstream for each in apt([], breakers).of(DEB)] == [None]


def test_a_breaker_that_opens_ends_the_attempts(breakers):
    sources, asked = apt([], breakers), []
    for source in sources.of(DEB):
        asked.append(source)
        refuse(sources)
    assert len(asked) == 1


def test_an_upstream_that_answers_closes_its_breaker(breakers):
    sources = apt([], breakers)
    source = refuse(sources, times=1)
    sources.worked(source)
    sources.failed(source, "503 busy")
    assert len(list(sources.of(DEB))) == 2
    sources.failed(source, "503 busy")
    assert [each.upstream for each in sources.of(DEB)] == [None]


def test_copies_are_named_by_the_longest_beginning():
    mirrors = {"http://m/": ["http://short"], "http://m/debian": ["http://long/d", "http://more/"]}
    assert alternatives("http://m/debian/x", mirrors) == [
        "http://m/debian/x", "http://long/d/x", "http://more/x",
    ]  # fmt: skip
    assert alternatives("http://m/other", mirrors) == ["http://m/other", "http://short/other"]
    assert alternatives("http://mm/debian", mirrors) == ["http://mm/debian"]


def test_pauses_grow_up_to_the_most_and_are_never_the_same():
    slept = []
    assert list(Pauses(attempts=6, first=1, most=4).take(slept.append)) == list(range(6))
    assert len(slept) == 5
    assert all(0 <= pause <= most for pause, most in zip(slept, (1, 2, 4, 4, 4), strict=True))


def test_a_team_s_index_is_asked_by_its_own_name():
    (source,) = IndexSources("https://u:p@index.example/root/", own=False, pauses=Pauses(1)).of(
        "/x"
    )
    assert (source.host, source.tls, str(source.address)) == (
        "index.example", True, "index.example:443",
    )  # fmt: skip
    (own,) = IndexSources("http://127.0.0.1:5/", own=True, pauses=Pauses(1)).of("/x")
    assert own.host is None


# --- what lies on disk ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (DEB, "file"),
        ("http://m/debian/dists/trixie/InRelease", "index"),
        ("http://m/debian/dists/trixie/main/binary-amd64/Packages.xz", "index"),
        (f"http://m/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/{'a' * 64}", "file"),
        ("http://m/flat/InRelease", "index"),
        ("http://m/flat/Packages.gz", "index"),
        ("/root/pypi/+simple/numpy/", "index"),
        ("/root/pypi/+f/abc/def0123456789/numpy.whl", "file"),
        ("/0123/", "index"),
    ],
)
def test_what_moves_at_its_address(url, kind):
    assert kind_of(url) == kind


def test_addresses_that_name_what_they_give():
    assert digest_in(f"http://m/dists/x/by-hash/SHA256/{'b' * 64}") == "b" * 64
    assert digest_in("/root/pypi/+f/abc/def0123456789/numpy.whl") == "abcdef0123456789"
    assert digest_in(DEB) is None


def test_where_caches_keep_their_files(tmp_path):
    assert AptStock(tmp_path).place(DEB) == tmp_path / "mirror.example/debian/pool/x.deb"
    assert AptStock(tmp_path).place("http://m:8/a%2bb_1%3a2.deb") == tmp_path / "m/a+b_1:2.deb"
    assert AptStock(tmp_path).place("http://m/../../etc/passwd") is None
    assert (
        PypiStock(tmp_path).place("/root/pypi/+f/a/b/x.whl") == tmp_path / "root/pypi/+f/a/b/x.whl"
    )
    assert PypiStock(tmp_path).place("/root/pypi/+simple/x/") is None


@pytest.fixture
def keeper(tmp_path):
    said = []
    stock, ledger = AptStock(tmp_path / "packages"), Ledger(tmp_path / "ledger")
    found = Storekeeper("apt", stock, ledger, tmp_path / "quarantine", said.append)
    place = stock.place(DEB)
    place.parent.mkdir(parents=True)
    place.write_bytes(b"hello")
    place.with_name("x.deb.head").write_text("HTTP/1.1 200 OK")
    return found, place, said


HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_a_file_that_is_what_it_was_stays(keeper):
    found, place, said = keeper
    found.ledger.learn("apt", DEB, HELLO, 5)
    found.inspect(DEB)
    assert place.exists()
    assert not said


def test_a_file_that_changed_is_taken_away_with_what_the_mirror_said_of_it(keeper, tmp_path):
    found, place, said = keeper
    found.ledger.learn("apt", DEB, HELLO, 5)
    place.write_bytes(b"hellO")
    found.inspect(DEB)
    assert not place.exists()
    assert not place.with_name("x.deb.head").exists()
    (kept,) = (tmp_path / "quarantine").iterdir()
    assert {path.name for path in kept.iterdir()} == {"x.deb", "x.deb.head"}
    assert "x.deb in the apt cache is damaged" in said[0]


def test_a_file_that_is_shorter_is_being_fetched(keeper):
    found, place, _ = keeper
    found.ledger.learn("apt", DEB, HELLO, 5)
    place.write_bytes(b"hel")
    found.inspect(DEB)
    assert place.exists()


def test_a_file_that_nobody_knows_is_believed(keeper):
    found, place, _ = keeper
    found.inspect(DEB)
    assert place.exists()
    assert found.state(DEB).size == 5
    assert found.state("http://mirror.example/none.deb") is None


def test_the_ledger_is_shared_and_survives_half_a_line(tmp_path):
    path = tmp_path / "ledger"
    Ledger(path).learn("apt", DEB, HELLO, 5)
    with path.open("a") as file:
        file.write('["apt", "http')
    again = Ledger(path)
    assert again.known("apt", DEB) == (HELLO, 5)
    assert again.known("pypi", DEB) is None
    again.learn("apt", DEB, HELLO, 5)
    assert len(path.read_text().splitlines()) == 2


# --- what it saved --------------------------------------------------------------------------------


def entry(origin, count, seconds, cache="apt"):
    return Entry("handed", 1, cache=cache, bytes=count, origin=origin, seconds=seconds)


def test_what_came_from_where_is_added_up_by_cache():
    found = sums([entry("upstream", 100, 2), entry("cache", 50, 0.1), entry("stale", 5, 0.1),
                  entry("cache", 7, 0, "pypi"), Entry("refused", 1)])  # fmt: skip
    assert found["apt"] == Sum(2, 1, 55, 100, 0.2, 2)
    assert found["pypi"] == Sum(1, 0, 7, 0, 0, 0)


def test_time_is_saved_at_the_pace_of_the_downloads_that_were_timed():
    total = {"apt": Sum(upstream_bytes=100, upstream_seconds=10)}
    run = {"apt": Sum(hits=3, cache_bytes=50, cache_seconds=1)}
    assert traffic(run, total) == Traffic(3, 0, 50, 0, 4.0)
    assert traffic(run, {"apt": Sum()}) == Traffic(3, 0, 50, 0, None)
    assert traffic({}, {}) == Traffic(saved=0)


def test_the_tally_of_all_runs_grows_and_may_be_lost(tmp_path):
    tally = Tally(tmp_path / "traffic.json")
    tally.add([entry("upstream", 100, 10)])
    assert tally.add([entry("cache", 50, 1)]).saved == 4.0
    assert tally.read()["apt"] == Sum(1, 1, 50, 100, 1, 10)
    (tmp_path / "traffic.json").write_text("{")
    assert tally.read() == {}
    assert tally.add([entry("cache", 50, 1)]).saved is None
