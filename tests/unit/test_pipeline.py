"""What a pipeline says about its stages, and how long it is believed without a second look."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from builder.errors import ProjectError
from builder.pipeline import Resources, load_pipeline

BOOTSTRAP = "bootstrap: {suite: trixie, packages: [linux-image-amd64, python3=3.13.5-1]}"
DIGEST = "0123456789ABCDEF" * 4


@pytest.fixture
def three_stages(project):
    """A project with a stage in the middle."""
    return project(
        {
            "stages/pipeline.yml": ("[base, final]", "[final, base, drivers]"),
            "stages/drivers/stage.yml": "parent: base\n",
            "stages/final/stage.yml": ("parent: base", "parent: drivers"),
        }
    )


# --- stages ---------------------------------------------------------------------------------------


def test_parents_come_first(three_stages):
    stages = load_pipeline(three_stages).stages
    assert [stage.name for stage in stages] == ["base", "drivers", "final"]
    assert [stage.parent for stage in stages] == [None, "base", "drivers"]


def test_a_lineage_is_what_lies_above(three_stages, project):
    project({"stages/final/stage.yml": ("parent: drivers", "parent: base")})
    pipeline = load_pipeline(three_stages)
    assert [stage.name for stage in pipeline.lineage("final")] == ["base", "final"]
    assert [stage.name for stage in pipeline.lineage("base")] == ["base"]


def test_an_unknown_stage_gets_a_suggestion(three_stages):
    expected = r'there is no stage "divers" \(did you mean "drivers"\?\)'
    with pytest.raises(ProjectError, match=expected):
        load_pipeline(three_stages).lineage("divers")


def test_a_stage_can_have_more_than_the_pipeline(three_stages, project):
    resources = "resources: {cpus: 4, disk: 9G}\nvariants:"
    project(
        {
            "stages/pipeline.yml": ("variants:", resources),
            "stages/drivers/stage.yml": "parent: base\nresources: {memory: 8G}\nnetwork: open\n",
        }
    )
    base, drivers, _ = load_pipeline(three_stages).stages
    assert base.resources == Resources(cpus=4, memory_mib=4096, disk_bytes=9 * 2**30)
    assert drivers.resources == Resources(cpus=4, memory_mib=8192, disk_bytes=9 * 2**30)
    assert (base.network, drivers.network) == ("caches", "open")


def test_a_template_of_the_project_or_of_the_stage(three_stages, project):
    project(
        {
            "stages/drivers/stage.yml": "parent: base\ntemplate: own.pkr.hcl.j2\n",
            "stages/drivers/own.pkr.hcl.j2": "",
        }
    )
    base, drivers, _ = load_pipeline(three_stages).stages
    assert base.template == Path("packer/stage.pkr.hcl.j2")
    assert drivers.template == Path("stages/drivers/own.pkr.hcl.j2")


# --- variants and sources -------------------------------------------------------------------------


def test_the_default_variant_and_another(project):
    root = project()
    one, two = load_pipeline(root), load_pipeline(root, "two")
    assert (one.variant, one.source.kind) == ("one", "bootstrap")
    assert (two.variant, two.source.kind) == ("two", "cloud_image")
    assert one.variants == two.variants == ("one", "two")


def test_an_unknown_variant_gets_a_suggestion(project, problems):
    expected = 'stages/pipeline.yml: there is no variant "tow" (did you mean "two"?)'
    assert problems(project(), "tow") == [expected]


def test_a_variant_merges_variables_and_replaces_roles(project):
    override = {"roles": ["greeting", {"role": "sealing"}], "variables": {"greeting_text": "hi"}}
    text = json.dumps({"final": override})
    root = project({"stages/pipeline.yml": ("  two:", f"    stages: {text}\n  two:")})
    one, two = load_pipeline(root).stage("final"), load_pipeline(root, "two").stage("final")
    given = [(role.name, role.variables) for role in one.roles]
    assert given == [("greeting", {"greeting_text": "hi"}), ("sealing", {})]
    assert [role.name for role in two.roles] == ["sealing"]


def test_a_variant_has_hosts_and_a_disk_of_its_own(project):
    own = "resources: {disk: 64G}\n    stages: {base: {hosts: [files.example]}}"
    root = project({"stages/pipeline.yml": ("  two:", f"    {own}\n  two:")})
    one, two = load_pipeline(root), load_pipeline(root, "two")
    assert (one.stage("base").hosts, two.stage("base").hosts) == (("files.example",), ())
    assert one.stage("final").hosts == ()
    assert (one.resources.disk_bytes, two.resources.disk_bytes) == (64 * 2**30, 8 * 2**30)
    assert one.stage("base").resources.disk_bytes == 64 * 2**30


def test_no_host_is_not_the_stages_hosts(project):
    text = "    stages: {base: {hosts: []}}\n  two:"
    root = project({
        "stages/pipeline.yml": ("  two:", text),
        "stages/base/stage.yml": "hosts: [files.example]\n",
    })  # fmt: skip
    assert load_pipeline(root).stage("base").hosts == ()
    assert load_pipeline(root, "two").stage("base").hosts == ("files.example",)


def test_defaults_of_settings_are_filled_in(project):
    pipeline = load_pipeline(project())
    assert pipeline.source.settings == {
        "suite": "trixie",
        "components": ["main"],
        "mirrors": None,
        "packages": ["linux-image-amd64", "python3=3.13.5-1"],
        "hold": [],
        "cmdline": "console=tty0 console=ttyS0,115200",
    }
    own = {"url": None, "port": None, "listen": None}
    assert pipeline.caches == {
        "apt": {**own, "mirrors": {}},
        "pypi": own,
        "wheels": own,
        "isos": {**own, "ttl": 72 * 3600},
        "models": {**own, "ttl": 72 * 3600, "upstream": None},
    }
    assert pipeline.resources == Resources(cpus=2, memory_mib=4096, disk_bytes=8 * 2**30)


def test_settings_of_caches_are_read(project):
    caches = {
        "apt": {"listen": "192.0.2.7", "mirrors": {"http://a.example/": ["http://b.example/x/"]}},
        "isos": {"ttl": "2d"},
        "models": {"ttl": "1h", "upstream": "http://hub.example"},
    }
    text = f"caches: {json.dumps(caches)}\nvariants:"
    found = load_pipeline(project({"stages/pipeline.yml": ("variants:", text)})).caches
    assert found["apt"]["listen"] == "192.0.2.7"
    assert found["apt"]["mirrors"] == {"http://a.example/": ["http://b.example/x/"]}
    assert (found["isos"]["ttl"], found["models"]["ttl"]) == (2 * 86400, 3600)
    assert found["models"]["upstream"] == "http://hub.example"


def test_a_checksum_is_the_same_in_capitals(project):
    image = f"cloud_image: {{url: x, sha256: {DIGEST}}}"
    root = project({"stages/pipeline.yml": (BOOTSTRAP, image)})
    assert load_pipeline(root).source.settings["sha256"] == DIGEST.lower()


def iso(answers):
    settings = f"sha256: {DIGEST}, installer: preseed, answers: {answers}"
    return f"iso: {{url: x, {settings}, kernel: /linux, initrd: /initrd.gz}}"


def test_an_installers_answers_are_a_file_of_the_root(project, problems):
    root = project(
        {"stages/pipeline.yml": (BOOTSTRAP, iso("./preseed.cfg")), "stages/base/preseed.cfg": ""}
    )
    assert load_pipeline(root).source.paths == {"answers": Path("stages/base/preseed.cfg")}
    project({"stages/base/preseed.cfg": None})
    assert problems(root) == [
        (
            "stages/pipeline.yml:9: variants.one.source.iso.answers: there is no file"
            " stages/base/preseed.cfg (put it into the root stage's folder)"
        )
    ]


# --- roles ----------------------------------------------------------------------------------------


def test_dependencies_come_in_the_order_in_which_they_run(project):
    specs = "argument_specs: {main: {options: {}}}"
    needs = {"sealing": "[a, b]", "a": "[c]", "b": "[{role: c}, a]", "c": "[]"}
    files = {f"ansible/roles/{name}/meta/argument_specs.yml": specs for name in needs}
    files |= {f"ansible/roles/{n}/meta/main.yml": f"dependencies: {d}" for n, d in needs.items()}
    pipeline = load_pipeline(project(files))
    assert pipeline.role_dependencies("sealing") == ("c", "a", "b")
    assert pipeline.role_folder("c") == Path("ansible/roles/c")


def test_the_values_in_force_in_an_image(project):
    given = "{sealing_list: a, sealing_on: false}"
    options = "{sealing_on: {type: bool}, sealing_off: {type: bool}, sealing_list: {type: path}}"
    role = "ansible/roles/sealing"
    root = project(
        {
            "stages/final/stage.yml": f"parent: base\nroles: [sealing]\nvariables: {given}",
            "stages/final/a": "",
            f"{role}/meta/argument_specs.yml": f"argument_specs: {{main: {{options: {options}}}}}",
            f"{role}/defaults/main.yml": "sealing_on: true\nsealing_off: true\n_own: 1",
        }
    )
    pipeline = load_pipeline(root)
    assert pipeline.variables_of("base") == {"greeting_text": "hello"}
    assert pipeline.variables_of("final") == {
        "greeting_text": "hello",
        "sealing_on": False,
        "sealing_off": True,
        "sealing_list": "stages/final/a",
    }


def test_a_pipeline_is_made_of_plain_values(project):
    """So that its parts can become part of a key."""
    document = dataclasses.asdict(load_pipeline(project()))
    assert json.loads(json.dumps(document, default=str))["variant"] == "one"


# --- the kept answer ------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "pipeline.json"


def test_a_kept_answer_is_the_same_answer(project, cache):
    role = "{role: greeting, variables: {greeting_text: 2026-01-01}}"
    root = project({"stages/base/stage.yml": ("greeting", role)})
    fresh = load_pipeline(root)
    assert load_pipeline(root, cache=cache) == load_pipeline(root, cache=cache) == fresh
    assert cache.is_file()


def test_a_kept_answer_needs_neither_yaml_nor_pydantic(project, cache):
    root = project()
    load_pipeline(root, cache=cache)
    program = (
        "import sys; from pathlib import Path; from builder.pipeline import load_pipeline;"
        "load_pipeline(Path(sys.argv[1]), 'two', cache=Path(sys.argv[2]));"
        "print({'yaml', 'pydantic', 'builder.config'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, root, cache],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("path", "text", "problem"),
    [
        ("stages/base/stage.yml", "roles: [x]", "there is no role"),
        ("stages/extra/stage.yml", "parent: base", "is not listed"),
        ("stages/final/stage.yml", None, "has no stages/final/stage.yml"),
        ("packer/stage.pkr.hcl.j2", None, "there is no template"),
        ("stages/base/preseed.cfg", None, "there is no file"),
        ("ansible/roles/sealing/meta/main.yml", "dependencies: 1", "must be a list"),
        ("ansible/roles/greeting/defaults/main.yml", "[]", "must be a mapping"),
        ("ansible/roles/greeting/meta/argument_specs.yml", None, "has no such file"),
    ],
)
def test_a_kept_answer_ends_with_any_change(project, cache, path, text, problem):
    root = project(
        {"stages/pipeline.yml": (BOOTSTRAP, iso("preseed.cfg")), "stages/base/preseed.cfg": ""}
    )
    load_pipeline(root, cache=cache)
    project({path: text})
    with pytest.raises(ProjectError, match=problem):
        load_pipeline(root, cache=cache)


def test_a_project_that_became_wrong_and_right_again(project, cache, problems):
    root = project()
    first = load_pipeline(root, cache=cache)
    stage = root / "stages/final/stage.yml"
    text = stage.read_text()
    stage.write_text("parent: nowhere")
    assert problems(root)
    stage.write_text(text)
    assert load_pipeline(root, cache=cache) == first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: content.replace(b"hello", b"hallo"),
        lambda content: b"\xff" * 200,
        lambda content: b"{}",
    ],
)
def test_a_broken_cache_is_not_there(project, cache, spoil):
    root = project()
    fresh = load_pipeline(root, cache=cache)
    cache.write_bytes(spoil(cache.read_bytes()))
    assert load_pipeline(root, cache=cache) == fresh


def test_a_cache_that_cannot_be_written_is_no_error(project, tmp_path):
    (tmp_path / "file").touch()
    assert load_pipeline(project(), cache=tmp_path / "file" / "pipeline.json").name == "tiny"


def test_a_project_can_be_moved_with_its_cache(project, tmp_path):
    root = project()
    load_pipeline(root, cache=root / "cache.json")
    before = (root / "cache.json").read_bytes()
    moved = root.rename(tmp_path / "moved")
    assert load_pipeline(moved, cache=moved / "cache.json").project == moved
    assert (moved / "cache.json").read_bytes() == before


# --- pins that are not filled in ------------------------------------------------------------------


IMAGE = "cloud_image: {url: x, sha256: 'fill in: vaultbuild lock image'}"


def test_an_open_pin_is_told_with_what_to_type(project):
    pipeline = load_pipeline(project({"stages/pipeline.yml": (BOOTSTRAP, IMAGE)}))
    with pytest.raises(ProjectError) as caught:
        pipeline.require_filled()
    assert [str(problem) for problem in caught.value.problems] == [
        (
            "stages/pipeline.yml:9: variants.one.source.cloud_image.sha256: is not filled in"
            " (type: vaultbuild lock image)"
        )
    ]
    assert "variant one" in caught.value.hint


def test_an_open_pin_concerns_its_variant_alone(project):
    root = project({"stages/pipeline.yml": (BOOTSTRAP, IMAGE)})
    other = load_pipeline(root, "two")
    other.require_filled()
    assert other.open_pins == ()


def test_an_open_pin_holds_the_place_of_any_value(project):
    options = {"greeting_lock": "path", "greeting_size": "int", "greeting_names": "list"}
    specs = {name: {"type": kind} for name, kind in options.items()}
    given = {
        "greeting_lock": "fill in: fetch it",
        "greeting_size": "fill in: measure it",
        "greeting_names": ["a", "fill in: ask for it"],
    }
    override = {"final": {"roles": [{"role": "greeting", "variables": given}]}}
    root = project(
        {
            "stages/pipeline.yml": ("  two:", f"    stages: {json.dumps(override)}\n  two:"),
            "ansible/roles/greeting/meta/argument_specs.yml": json.dumps(
                {"argument_specs": {"main": {"options": specs}}}
            ),
            "stages/final/stage.yml": "parent: base\n",
            "stages/base/stage.yml": "roles: []\n",
        }
    )
    pipeline = load_pipeline(root)
    hints = ["type: ask for it", "type: fetch it", "type: measure it"]
    assert [problem.hint for problem in pipeline.open_pins] == hints
    assert pipeline.stage("final").roles[0].paths == {}


@pytest.mark.parametrize("text", ["fill in:", "fill in: ", "filled in: x"])
def test_what_says_nothing_to_type_is_no_open_pin(project, text, problems):
    image = f"cloud_image: {{url: x, sha256: '{text}'}}"
    root = project({"stages/pipeline.yml": (BOOTSTRAP, image)})
    assert "is no SHA-256" in problems(root)[0]
