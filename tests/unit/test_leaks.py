"""What of a build is searched for in a disk, and what is found; disks are files with holes."""

from types import SimpleNamespace

import pytest

from builder.pipeline import load_pipeline
from builder.release.leaks import (
    ADDRESS,
    KEY,
    MIRROR,
    SECRET,
    Hit,
    Needle,
    address_needles,
    host_secrets,
    key_needles,
    leak_results,
    mirror_needles,
    pipeline_secrets,
    search,
    secret_needles,
)

MIB = 1 << 20
LOGIN = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"


@pytest.fixture
def raw(tmp_path):
    """Make a disk of 32 MiB that is a hole but for texts at offsets."""

    def make(texts) -> SimpleNamespace:
        path = tmp_path / "raw"
        with path.open("wb") as file:
            file.truncate(32 * MIB)
            for offset, text in texts.items():
                file.seek(offset)
                file.write(text)
        return path

    return make


def needle(text="a token of the build", kind=SECRET) -> Needle:
    return Needle(kind, "the token", text.encode())


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 4 * MIB - 7, 4 * MIB, 12 * MIB - 1, 32 * MIB - 20])
def test_it_is_found_wherever_it_stands(raw, offset):
    one = needle()
    assert len(one.value) == 20
    noise = {16 * MIB: b"something else", 4 * MIB - 4096: b"x" * 8192, 12 * MIB - 4096: b"y" * 8192}
    assert search(raw({**noise, offset: one.value}), [one]) == [Hit(one, offset)]


def test_it_is_found_once_though_pieces_overlap(raw):
    first, second = needle(), needle("another, longer one of the build")
    texts = {4 * MIB - 25: first.value, 4 * MIB + 3: first.value, 4 * MIB - 4096: b"x" * 4000}
    hits = search(raw(texts), [first, second])
    assert [hit.offset for hit in hits] == [4 * MIB - 25, 4 * MIB + 3]


def test_a_few_places_are_enough(raw):
    one = needle()
    assert len(search(raw({0: one.value * 1000}), [one])) == 3


def test_nothing_is_found_where_nothing_is(raw):
    assert search(raw({0: b"a token of the builD"}), [needle()]) == []
    assert search(raw({0: b"a token"}), []) == []


def test_what_is_short_is_not_searched_for(raw):
    assert search(raw({0: b"short"}), [needle("short")]) == []


# --- what is searched for -------------------------------------------------------------------------


def told(needles) -> dict[str, str]:
    return {each.value.decode(): each.what for each in needles}


def test_variables_that_call_themselves_secret():
    variables = {
        "hub_token": "hf_0123",
        "greeting_text": "hello",
        "registry": {"password": " abc ", "user": "me"},
        "site_api_keys": ["one", {"two": "three"}],
        "ssh_password_authentication": "no",
        "site_secret": None,
        "site_passwords": [True],
    }
    assert told(secret_needles("variable ", variables)) == {
        "hf_0123": "variable hub_token",
        "abc": "variable registry.password",
        "one": "variable site_api_keys",
        "three": "variable site_api_keys.two",
    }


@pytest.mark.parametrize(
    ("document", "secret"),
    [
        ({"registries": [{"name": "a", "password": "in a list"}]}, "in a list"),
        ({"registries": [[{"more": {"api_key": "in two lists"}}]]}, "in two lists"),
        ({"db_password": 1234567890}, "1234567890"),
        ({"db_passwords": [12345678.5]}, "12345678.5"),
        ({"index": "https://me:in-a-url@wheels.example/simple"}, "in-a-url"),
        ({"lines": ["deb [a=b] http://me:in-a-line@a.example/debian x main"]}, "in-a-line"),
        ({"index": "https://glpat-0123456789abcdef@wheels.example/"}, "glpat-0123456789abcdef"),
        ({"index": "https://me:@wheels.example/?a=b&api_token=in-a-query"}, "in-a-query"),
        ({"https://me:in-a-name@a.example/": ["https://b.example/"]}, "in-a-name"),
        ({"chpasswd": {"list": "root:after a name\n"}}, "after a name"),
        ({"chpasswd": {"list": ["root:after a name"]}}, "after a name"),
        ({"chpasswd": {"users": [{"name": "me", "password": "of a user"}]}}, "of a user"),
        (
            {"users": ["default", {"name": "me", "plain_text_passwd": "in the clear"}]},
            "in the clear",
        ),
        ({"ssh_keys": {"ed25519_private": "a key", "ed25519_public": "half of it"}}, "a key"),
    ],
)
def test_it_is_secret_wherever_it_stands(document, secret):
    found = told(secret_needles("here: ", document))
    assert found.keys() == {secret} or found.keys() == {secret, ""}
    assert "here: " in found[secret]
    assert secret not in found[secret], "what is secret is not shown"


def test_a_short_name_before_a_host_is_no_token():
    urls = {"a": "ssh://git@code.example/x", "b": "http://[broken", "c": "http://a.example/?b=c"}
    assert told(secret_needles("", urls)) == {}


PIPELINE = """\
schema: 1
name: tiny
version: "1.0.0"
variant: one
stages: [base, final]
caches:
  pypi: {url: "https://me:of-the-index@wheels.example/simple"}
  models: {upstream: "https://me:of-the-hub@hub.example/"}
variants:
  one:
    source:
      cloud_image:
        url: https://me:of-the-image@images.example/one.qcow2
        sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        seed:
          user_data:
            users: [{name: me, passwd: of-cloud-init}]
"""
SPECS = """\
argument_specs:
  main:
    options:
      greeting_token: {type: str}
      greeting_registries: {type: list, elements: dict}
"""


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ("of-base", "variable greeting_token"),
        ("of-another-use", "variable greeting_token"),
        ("of-final", "variable greeting_token"),
        ("of-a-list", "variable greeting_registries.password"),
        ("of-the-index", "the password in caches.pypi.url"),
        ("of-the-hub", "the password in caches.models.upstream"),
        ("of-the-image", "the password in source.cloud_image.url"),
        ("of-cloud-init", "source.cloud_image.seed.user_data.users.passwd"),
    ],
)
def test_what_a_project_holds(project, secret, what):
    base = """\
        roles:
          - role: greeting
            variables: {greeting_token: of-base, greeting_registries: [{password: of-a-list}]}
          - {role: greeting, as: twice, variables: {greeting_token: of-another-use}}
        """
    final = """\
        parent: base
        roles:
          - {role: greeting, as: twice, variables: {greeting_token: of-final}}
        """
    files = {"stages/pipeline.yml": PIPELINE, "stages/base/stage.yml": base}
    folder = project(
        {
            **files,
            "stages/final/stage.yml": final,
            "ansible/roles/greeting/meta/argument_specs.yml": SPECS,
        }
    )
    assert told(pipeline_secrets(load_pipeline(folder), "final"))[secret] == what


def test_proxies_and_their_passwords():
    environment = {
        "https_proxy": "http://me:pass%21@proxy.example:3128/",
        "HTTP_PROXY": "10.1.2.3:8080",
        "no_proxy": "localhost",
    }
    assert told(host_secrets(environment, None)) == {
        "pass%21": "the password in https_proxy",
        "pass!": "the password in https_proxy",
    }
    found = told(address_needles(environment))
    assert found["proxy.example:3128"] == "the proxy in https_proxy"
    assert found["10.1.2.3:8080"] == "the proxy in HTTP_PROXY"
    assert {"127.0.0.1:3142", "10.0.2.100:3141"} <= found.keys()


def test_the_password_of_the_index_of_pip():
    found = told(host_secrets({}, "https://me:of-this-host@wheels.example/simple"))
    assert found == {"of-this-host": "the password in the index of this host's pip"}


def test_mirrors_but_not_those_of_the_image():
    caches = {
        "apt": {"url": None, "mirrors": {"http://a.example/debian": ["http://b.example:81/d"]}},
        "pypi": {"url": "https://me:word@wheels.example/simple"},
    }
    own = ["deb [signed-by=/x] http://a.example/debian trixie main", "URIs: https://c.example/"]
    found = told(mirror_needles(caches, "https://index.example/simple", own))
    assert found.keys() == {"b.example", "wheels.example", "index.example"}
    assert told(mirror_needles({"apt": {"url": None}}, None, [])) == {}


def test_both_halves_of_a_key():
    public, private = key_needles([LOGIN, LOGIN])
    assert public.value.decode() == LOGIN.split()[1]
    assert len(private.value) > 40
    assert private.kind == KEY


# --- what is said ---------------------------------------------------------------------------------


def said(hits, places=()):
    root = SimpleNamespace(owner=dict(places).get)
    return {one.name: one.message for one in leak_results(hits, root)}


def test_where_nothing_was_found_all_pass():
    assert said([]) == dict.fromkeys((KEY, SECRET, ADDRESS, MIRROR), "")


def test_a_hit_names_what_and_where_and_not_the_secret():
    found = said([Hit(needle(), 7), Hit(needle(), 99)], {7: "/etc/motd"})
    assert (
        found[SECRET]
        == "E the token is in /etc/motd\nE the token is in no file, at byte 99 of the disk"
    )
    assert found[KEY] == found[ADDRESS] == found[MIRROR] == ""


@pytest.mark.parametrize(
    ("path", "public"),
    [
        ("/usr/lib/python3/dist-packages/pip/index.py", True),
        ("/opt/venv/lib/python3.13/site-packages/pip/index.py", True),
        ("/var/lib/dpkg/status", True),
        ("/usr/local/etc/x", False),
        ("/etc/pip.conf", False),
    ],
)
def test_a_host_that_packages_name_is_known_to_everybody(path, public):
    mirror = needle("index.example", MIRROR)
    found = said([Hit(mirror, 1), Hit(mirror, 2)], {1: path, 2: "/etc/pip.conf"})
    assert (found[MIRROR] == "") == public
    secret = said([Hit(needle(), 1)], {1: path})
    assert secret[SECRET], "a secret is one wherever it stands"
