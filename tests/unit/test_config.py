"""Every mistake of every file is told with its file, line, key and a hint."""
# ruff: noqa: E501 - a row of a table stays on one line

import pytest

from builder.config import read_project
from builder.memo import Tree
from builder.values import WrongValueError, parse_age, parse_size

PIPELINE = """\
schema: 1
name: tiny
version: "1.0.0"
variant: one
stages: [base, final]
variants:
  one:
    source:
      bootstrap:
        suite: trixie
        packages: [python3]
"""


def mistakes(root):
    return [str(problem) for problem in read_project(Tree(root)).problems]


def edited(old, new):
    assert old in PIPELINE
    return PIPELINE.replace(old, new)


def test_a_right_project_has_no_mistakes(project):
    assert mistakes(project()) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("schema: 1", "schema: 2", "1: schema: must be 1, not 2"),
        ("name: tiny\n", "", " name: is missing"),
        ("name: tiny", "name: Tiny", '2: name: "Tiny" is no name (use small letters, digits, "." and "-": gpu-host)'),
        ('"1.0.0"', "1.0", "3: version: must be text, not 1.0 (put it in quotes)"),
        ('"1.0.0"', "latest", '3: version: "latest" is no version (begin with a number: "1.0.0", "2026.11-rc1")'),
        ("version:", "verison:", '3: verison: is not a key that is known here (did you mean "version"?)'),
        ("[base, final]", "base", '5: stages: must be a list, not "base"'),
        ("[base, final]", "[base, base]", '5: stages: "base" is listed twice (remove one of them)'),
        ("[base, final]", "[]", "5: stages: must not be empty"),
        ("[base, final]", "[base, 7]", "5: stages.1: must be text, not 7 (put it in quotes)"),
        ("variants:", "variables:\nvariants:", "6: variables: must be a mapping, not nothing (leave the key out)"),
        ("variants:", "variables: {a-b: 1}\nvariants:", '6: variables.a-b: "a-b" is no variable\'s name (use small letters, digits and "_")'),
        ("variants:", "resources: {memory: 4}\nvariants:", '6: resources.memory: 4 is no size (write it as 8G or 512M)'),
        ("variants:", "resources: {disk: 8 GB}\nvariants:", '6: resources.disk: "8 GB" is no size (write it as 8G or 512M)'),
        ("variants:", "resources: {cpus: 0}\nvariants:", "6: resources.cpus: 0 is no number of CPUs (write 1 or more)"),
        ("variants:", "resources: {cpus: true}\nvariants:", "6: resources.cpus: must be a whole number, not true"),
        ("variants:", "resources: {ram: 4G}\nvariants:", "6: resources.ram: is not a key that is known here (known: cpus, disk, memory)"),
        ("variants:", "caches: {apt: {url: localhost}}\nvariants:", '6: caches.apt.url: "localhost" is no URL (write it as http://host:port/)'),
        ("variants:", "caches: {apt: {listen: eth0}}\nvariants:", '6: caches.apt.listen: "eth0" is no address of this host (write an IP address: 127.0.0.1 is this host alone, 0.0.0.0 is everybody)'),
        ("variants:", "caches: {isos: {ttl: 3}}\nvariants:", "6: caches.isos.ttl: 3 is no age (write it as 72h, 30d or 4w)"),
        ("variants:", "caches: {pypi: {ttl: 3d}}\nvariants:", "6: caches.pypi.ttl: is not a key that is known here (known: listen, port, url)"),
        ("variants:", "caches: {apt: {mirrors: {'http://a.example/': []}}}\nvariants:", "6: caches.apt.mirrors.http://a.example/: must not be empty"),
        ("variants:", "caches: {apt: {mirrors: {'http://a.example/': [b.example]}}}\nvariants:", '6: caches.apt.mirrors.http://a.example/.0: "b.example" is no prefix of URLs (write http://HOST/FOLDER/, with the slash at its end)'),
        ("    source:", "    sauce:", '8: variants.one.sauce: is not a key that is known here (did you mean "source"?)'),
        ("bootstrap:", "bootstrp:", '9: variants.one.source.bootstrp: is not a key that is known here (did you mean "bootstrap"?)'),
        ("bootstrap:", "bootstrap: []\n      iso:", "9: variants.one.source.bootstrap: must be a mapping, not a list"),
        ("suite: trixie", "suite: 13", "10: variants.one.source.bootstrap.suite: must be text, not 13 (put it in quotes)"),
        ("[python3]", "[python3, Foo]", '11: variants.one.source.bootstrap.packages.1: "Foo" is no package (write name or name=version)'),
        ("[python3]", "[python3=]", '11: variants.one.source.bootstrap.packages.0: "python3=" is no package (write name or name=version)'),
        ("[python3]", "[python3]\n        hold: [pyton3]", '9: variants.one.source.bootstrap: "pyton3" is held but not among the packages (did you mean "python3"?)'),
        ("[python3]", "[python3]\n        mirrors: [http://x/]", '12: variants.one.source.bootstrap.mirrors.0: "http://x/" is no apt source (write it on one line: deb URL SUITE COMPONENT)'),
    ],
)  # fmt: skip
def test_a_mistake_in_the_pipeline(project, old, new, problem):
    root = project({"stages/pipeline.yml": edited(old, new)})
    assert f"stages/pipeline.yml:{problem}" in mistakes(root)


def source(text):
    head = PIPELINE[: PIPELINE.index("      bootstrap:")].replace("    source:\n", "")
    return f"{head}    source: {text}\n"


ISO = "url: x, initrd: /initrd.gz"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "8: variants.one.source: names nothing (give exactly one of bootstrap, cloud_image, iso)"),
        ("{iso: null}", "8: variants.one.source: names iso (give exactly one of bootstrap, cloud_image, iso)"),
        ("{cloud_image: {url: x.qcow2}}", "8: variants.one.source.cloud_image.sha256: is missing"),
        ("{cloud_image: {sha256: abc, url: x}}", '8: variants.one.source.cloud_image.sha256: "abc" is no SHA-256 (64 hexadecimal digits, as sha256sum prints them)'),
        ("{cloud_image: {sha256: abc, url: s3://x}}", '8: variants.one.source.cloud_image.url: "s3://x" is no place to fetch from (write an http://, https:// or file:// URL, or a path)'),
        ("{cloud_image: {seed: {user: {}}, url: x}}", '8: variants.one.source.cloud_image.seed.user: is not a key that is known here (did you mean "user_data"?)'),
        (f"{{iso: {{{ISO}, kernel: /a//b}}}}", '8: variants.one.source.iso.kernel: "/a//b" is no file of an ISO (write its path there: /casper/vmlinuz)'),
        (f"{{iso: {{{ISO}, mirror: 'https://a.example/debian'}}}}", '8: variants.one.source.iso.mirror: "https://a.example/debian" is no archive that an installer reaches (write http://HOST/FOLDER: what is encrypted passes no cache)'),
        (f"{{iso: {{{ISO}, timeout: 0m}}}}", '8: variants.one.source.iso.timeout: "0m" is no time (write it as 90m or 3h)'),
        (f"{{iso: {{{ISO}, boot_command: [x]}}}}", "8: variants.one.source.iso.boot_command: is not a key that is known here"),
        ("{iso: {url: x, installer: preceed, answers: x}}", "8: variants.one.source.iso.installer: must be 'preseed' or 'autoinstall', not \"preceed\""),
    ],
)  # fmt: skip
def test_a_mistake_in_a_source(project, text, problem):
    assert f"stages/pipeline.yml:{problem}" in mistakes(
        project({"stages/pipeline.yml": source(text)})
    )


def test_a_variant_has_one_source(project):
    both = source("{bootstrap: {suite: sid, packages: [a-b]}, iso: {}}")
    root = project({"stages/pipeline.yml": both})
    assert all("source.iso" in line for line in mistakes(root))
    digest = "0123456789abcdef" * 4
    both = both.replace("iso: {}", f"cloud_image: {{url: x, sha256: '{digest}'}}")
    assert mistakes(project({"stages/pipeline.yml": both})) == [
        (
            "stages/pipeline.yml:8: variants.one.source: names bootstrap and cloud_image"
            " (give exactly one of bootstrap, cloud_image, iso)"
        )
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", " is empty"),
        ("# only a comment\n", " is empty"),
        ("---\n", " is empty"),
        ("[base]", " must be a mapping, not a list"),
        ("rols: []", '1: rols: is not a key that is known here (did you mean "roles"?)'),
        ("roles: sealing", '1: roles: must be a list, not "sealing"'),
        ("roles:\n- sealing\n- 5", "3: roles.1: must be a mapping, not 5"),
        ("roles:\n- rol: x", "2: roles.0.role: is missing"),
        ("roles:\n- role: sealing\n  vars: {}", '3: roles.0.vars: is not a key that is known here (did you mean "variables"?)'),
        ("roles:\n- Sealing", '2: roles.0.role: "Sealing" is no role\'s name (use small letters, digits and "_")'),
        ("network: cache", "1: network: must be 'caches' or 'open', not \"cache\""),
        ("template: stage.hcl", '1: template: "stage.hcl" is no template (name a *.pkr.hcl.j2 file of this stage\'s folder)'),
        ("resources: {disk: 8G}", "1: resources.disk: is not a key that is known here (known: cpus, memory)"),
        ("parent: base\nparent: base", "2: parent: appears twice; first on line 1"),
        ("roles: [a\nnetwork: open", "2: is not YAML: did not find expected ',' or ']' while parsing a flow sequence (is a quote or a bracket not closed, or a line indented wrongly?)"),
        ("parent: base\n\troles: []", "2: is not YAML: found a tab character that violates indentation while scanning a plain scalar (indent with spaces)"),
        ("a: 1\n---\na: 1", "2: is not YAML: but found another document expected a single document in the stream"),
        ("template: @x", "1: is not YAML: found character that cannot start any token while scanning for the next token (indent with spaces; put text that begins with %, @ or ` in quotes)"),
        ("template: a: b", "1: is not YAML: mapping values are not allowed in this context (put text that holds a colon in quotes)"),
        ("parent: *base", "1: is not YAML: found undefined alias"),
        ("variables: {x: !vault y}", "1: variables.x: the tag !vault is not known here (write plain values)"),
        ("variables: {x: .nan}", "1: variables.x: is not a finite number"),
        ("variables: {x: {1: y}}", "1: variables.x.1: a key must be text (put it in quotes)"),
        ("variables: {x: {[a]: y}}", "1: variables.x.a list or mapping: a key must be text (put it in quotes)"),
        ("variables: {x: !!int ''}", "1: variables.x: is no int (put it in quotes)"),
        (f"variables: {'[' * 99}{']' * 99}", "1: variables: is nested too deeply"),
        ("variables: &all {x: *all}", "1: variables.x: contains itself"),
        ("variables:\n  x: 1\n  <<: 5", "2: variables: cannot be merged: expected a mapping or list of mappings for merging, but found scalar"),
        ("x: \x01", "1: contains a control character"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_stage(project, text, problem):
    found = mistakes(project({"stages/final/stage.yml": text}))
    separator = "" if problem.startswith(" ") else ":"
    place = f"stages/final/stage.yml{separator or ':'}{problem}"
    assert place in found


def test_a_file_that_is_no_text(project):
    root = project()
    (root / "stages/final/stage.yml").write_bytes(b"parent: base\n# \xff\n")
    assert mistakes(root) == ["stages/final/stage.yml:2: is not UTF-8 text"]


def test_a_file_that_cannot_be_read(project):
    root = project({"stages/pipeline.yml": None})
    (root / "stages/pipeline.yml").mkdir()
    assert mistakes(root) == ["stages/pipeline.yml: cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("meta/argument_specs.yml", None, ': role sealing has no such file (a role declares its variables there: "argument_specs: {main: {options: {}}}")'),
        ("meta/argument_specs.yml", "argument_specs: {}", ":1: argument_specs.main: is missing"),
        ("meta/argument_specs.yml", "argument_specs: {main: {options: {colour: {}}}}", ":1: argument_specs.main.options.colour: a role's variable begins with the role's name (name it sealing_colour)"),
        ("meta/argument_specs.yml", "argument_specs: {main: {options: {sealing_a: {requird: true}}}}", ':1: argument_specs.main.options.sealing_a.requird: is not a key that is known here (did you mean "required"?)'),
        ("meta/argument_specs.yml", "argument_specs: {main: {options: {sealing_a: {type: text}}}}", ":1: argument_specs.main.options.sealing_a.type: must be 'str', 'int', 'float', 'bool', 'list', 'dict', 'path' or 'raw', not \"text\""),
        ("meta/main.yml", "dependancies: []", ':1: dependancies: is not a key that is known here (did you mean "dependencies"?)'),
        ("meta/main.yml", "dependencies:\n- role: greeting\n  when: x", ":3: dependencies.0.when: is not a key that is known here (known: role)"),
        ("defaults/main.yml", "- 1", ": must be a mapping, not a list"),
        ("defaults/main.yml", "a: 1\na: 2", ":2: a: appears twice; first on line 1"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_role(project, path, text, problem):
    root = project({f"ansible/roles/sealing/{path}": text})
    assert mistakes(root) == [f"ansible/roles/sealing/{path}{problem}"]


def test_a_role_may_have_empty_defaults(project):
    root = project({"ansible/roles/sealing/defaults/main.yml": "---\n# none yet\n"})
    assert mistakes(root) == []


def test_a_role_that_no_stage_uses_is_not_judged(project):
    root = project({"ansible/roles/unfinished/meta/main.yml": "x: ["})
    assert mistakes(root) == []


def test_mistakes_of_all_files_are_told_at_once(project):
    root = project(
        {
            "stages/pipeline.yml": edited("name: tiny", "nam: tiny\nversoin: 1"),
            "stages/base/stage.yml": "roles: [greeting]\nnetwork: none\n",
            "stages/other/stage.yml": "parent: [",
            "ansible/roles/sealing/meta/argument_specs.yml": "argument_specs: 5",
        }
    )
    files = [line.split(":")[0] for line in mistakes(root)]
    assert files == [
        *["stages/pipeline.yml"] * 3,
        "stages/base/stage.yml",
        "stages/other/stage.yml",
        "ansible/roles/sealing/meta/argument_specs.yml",
    ]


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 * 2**20), ("8G", 8 * 2**30), ("8 GiB", 8 * 2**30), ("1T", 2**40)],
)
def test_a_size(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "0G", "-1G", "8", "8GB", "8K", "1.5G", 8, None, True])
def test_no_size(text):
    with pytest.raises(WrongValueError, match="is no size"):
        parse_size(text)


DAY = 24 * 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30d", 30 * DAY), ("12h", DAY // 2), ("4w", 28 * DAY), ("0d", 0), ("5m", 300)],
)
def test_an_age(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "30", "3s", "-1d", "1.5d", 30])
def test_what_is_no_age(text):
    with pytest.raises(ValueError, match="is no age"):
        parse_age(text)
