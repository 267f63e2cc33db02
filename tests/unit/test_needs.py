"""What a pipeline will ask the caches for."""

import hashlib

import pytest

from builder.caches.wheels import Target, target_of
from builder.needs import ImageNeed, needs_of
from builder.pipeline import load_pipeline

LOCK = "one==1.0 \\\n    --hash=sha256:" + "a" * 64 + "\n"
MODELS = "schema: 1\nmodels: []\n"
OTHER = "just text\n"
FILES = {
    "ansible/roles/greeting/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              greeting_text: {type: str}
              greeting_wheels: {type: path}
              greeting_models: {type: path}
              greeting_other: {type: path}
        """,
    "stages/base/stage.yml": """\
        roles: [greeting]
        variables:
          greeting_wheels: wheels.lock
          greeting_models: models.lock
          greeting_other: other.txt
        """,
    "stages/base/wheels.lock": LOCK,
    "stages/base/models.lock": MODELS,
    "stages/base/other.txt": OTHER,
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_lock_files_are_known_by_what_is_in_them(project):
    needs = needs_of(load_pipeline(project(FILES)))
    (wheels,), (models,) = needs.wheels, needs.models
    assert (wheels.stage, wheels.role, wheels.variable) == ("base", "greeting", "greeting_wheels")
    assert str(wheels.path) == "stages/base/wheels.lock"
    assert (wheels.sha256, models.sha256) == (digest(LOCK), digest(MODELS))
    assert wheels.target == Target("3.13", "2.41"), "of trixie"
    assert models.variable == "greeting_models"
    assert needs.image is None


def test_an_image_tells_more_than_its_suite(project):
    pipeline = load_pipeline(project(FILES))
    installed = {"base": {"python3": "3.12.3-0ubuntu2", "libc6": "2.39-0ubuntu8.3"}}
    needs = needs_of(pipeline, lambda stage: installed.get(stage.name))
    assert needs.wheels[0].target == Target("3.12", "2.39")


def test_the_image_of_a_source(project):
    needs = needs_of(load_pipeline(project(FILES), "two"))
    assert needs.image == ImageNeed(
        "cloud_image",
        "http://images.example/two.qcow2",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    )
    assert needs.wheels[0].target is None, "nobody knows what is in that image"


def test_the_needs_of_one_stage(project):
    needs = needs_of(load_pipeline(project(FILES)))
    assert len(needs.of_stages(["base"]).wheels) == len(needs.of_stages(["base"]).models) == 1
    assert needs.of_stages(["final"]) == needs_of(load_pipeline(project(
        {"stages/base/stage.yml": "roles: [greeting]\n"}
    )))  # fmt: skip


@pytest.mark.parametrize(
    ("packages", "suite", "target"),
    [
        ({"python3": "3.13.5-1", "libc6": "2.41-12+deb13u1"}, None, Target("3.13", "2.41")),
        ({"python3": "3.11.2-1+b1", "libc6": "2.36-9"}, "trixie", Target("3.11", "2.36")),
        ({"python3": "3.11.2-1+b1"}, "trixie", Target("3.13", "2.41")),
        (None, "noble", Target("3.12", "2.39")),
        (None, "jammy", Target("3.10", "2.35")),
        (None, "bookworm", Target("3.11", "2.36")),
        (None, "sid", None),
        ({}, None, None),
    ],
)
def test_what_wheels_must_fit(packages, suite, target):
    assert target_of(packages, suite) == target
