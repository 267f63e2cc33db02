"""Lock files of wheels and of models: what they say, and what is wrong with them."""

from pathlib import Path

import pytest
import yaml

from builder.caches import models_lock, requirements
from builder.errors import ProjectError

ROOT = Path(__file__).parents[2]
A, B = "a" * 64, "b" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# --- wheels ---------------------------------------------------------------------------------------

LOCK = f"""\
# a comment
--index-url http://index.example/simple/
one==1.0 \\
    --hash=sha256:{A} \\
    --hash=sha256:{B}
    # via two

two[extra]==2.0 ; python_version < "3.12" --hash=sha256:{A.upper()}  # why
three @ http://files.example/three-3.0-py3-none-any.whl#egg=three \\
    --hash sha512:{A}{B}
"""


def test_a_lock_file_of_wheels():
    one, two, three = requirements.parse_lock(Path("x.lock"), LOCK.encode())
    assert (one.text, one.line, one.sha256s, one.url) == ("one==1.0", 3, {A, B}, None)
    assert two.text == 'two[extra]==2.0 ; python_version < "3.12"'
    assert (two.line, two.sha256s) == (8, {A})
    assert [two.applies({"python_version": v, "extra": ""}) for v in ("3.11", "3.13")] == [
        True,
        False,
    ]
    assert three.url.startswith("http://files.example/three-3.0-py3-none-any.whl")
    assert three.sha256s == frozenset(), "only SHA-256 names files here"


def test_the_lock_file_of_the_reference_pipeline():
    content = (ROOT / "stages/frameworks/requirements.lock").read_bytes()
    found = requirements.parse_lock(Path("requirements.lock"), content)
    assert requirements.is_lock(content)
    assert {"numpy", "onnxruntime"} <= {one.requirement.name for one in found}
    assert all(one.sha256s for one in found)


@pytest.mark.parametrize(
    ("content", "known"),
    [
        (LOCK.encode(), True),
        (f"one==1.0 --hash=sha256:{A}".encode(), True),
        (f"one==1.0 --hash=sha256:{A}\ntwo==2.0\n".encode(), False),
        (b"one==1.0\n", False),
        (b"# nothing\n", False),
        (b"", False),
        (f"-r other.txt\none==1.0 --hash=sha256:{A}".encode(), False),
        (b"\xff\xfe", False),
        (b"schema: 1\nmodels: []\n", False),
    ],
)
def test_a_lock_file_of_wheels_is_known_by_its_hashes(content, known):
    assert requirements.is_lock(content) is known


def test_every_mistake_of_a_lock_file_of_wheels_is_told():
    text = f"one==1.0\n\nnot a requirement --hash=sha256:{A}\n"
    with pytest.raises(ProjectError) as caught:
        requirements.parse_lock(Path("x.lock"), text.encode())
    assert [problem.line for problem in caught.value.problems] == [1, 3]
    assert "one==1.0 has no --hash" in caught.value.message


# --- models ---------------------------------------------------------------------------------------


def document(**changes):
    model = {
        "repo": "org/name",
        "revision": "main",
        "commit": COMMIT,
        "files": {"config.json": {"sha256": A, "size": 3}, "a/b.bin": {"sha256": B, "size": 0}},
    }
    return {"schema": 1, "models": [{**model, **changes}]}


def parsed(content):
    return models_lock.parse_lock(Path("models.lock"), yaml.safe_dump(content).encode())


def test_a_lock_file_of_models():
    (model,) = parsed(document()).models
    assert (model.repo, model.commit, model.revision) == ("org/name", COMMIT, "main")
    assert [(file.path, file.sha256, file.size) for file in model.files] == [
        ("a/b.bin", B, 0),
        ("config.json", A, 3),
    ]
    assert models_lock.is_lock(yaml.safe_dump(document()).encode())
    assert not models_lock.is_lock(LOCK.encode())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([], "has no list of models"),
        ({"schema": 1}, "has no list of models"),
        ({**document(), "schema": 2}, "must be 1"),
        ({**document(), "more": 1}, "more: is not a key"),
        ({"schema": 1, "models": ["org/name"]}, "models.0: must be a mapping"),
        ({"schema": 1, "models": document()["models"] * 2}, "stands here twice"),
        (document(repo="name"), "org/name"),
        (document(repo="../name"), "org/name"),
        (document(repo="org/a--b"), "org/name"),
        (document(repo="org/a..b"), "org/name"),
        (document(commit="main"), "full commit"),
        (document(commit=COMMIT[:12]), "full commit"),
        (document(revision=1), "must be text"),
        (document(other=1), "other: is not a key"),
        (document(files={}), "must name the model's files"),
        (document(files={"x": A}), "must have sha256 and size"),
        (document(files={"x": {"sha256": "a", "size": 1}}), "is no SHA-256"),
        (document(files={"x": {"sha256": A, "size": -1}}), "number of bytes"),
        (document(files={"x": {"sha256": A, "size": True}}), "number of bytes"),
        *(
            (document(files={path: {"sha256": A, "size": 1}}), "is no path inside")
            for path in ("../x", "/x", "a/../../x", "a//b", "./a", "a\\b", "")
        ),
    ],
)
def test_mistakes_of_a_lock_file_of_models(content, told):
    with pytest.raises(ProjectError) as caught:
        parsed(content)
    assert told in caught.value.message
    assert "models.lock" in caught.value.message


def test_a_lock_file_of_models_that_is_no_yaml():
    with pytest.raises(ProjectError, match="is not YAML"):
        models_lock.parse_lock(Path("models.lock"), b"models: [\n")
