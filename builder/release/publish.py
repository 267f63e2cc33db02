"""Turn a verified image into a release: flat, compressed, checksummed, booted, described.

The file that is shipped is the file that is booted: two clones of it, one under BIOS and one under
UEFI, must come up, must pass the stage's checks, and must not share an identity. Only then does the
release appear, complete, by one rename; a release that exists is never written again.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from builder import __version__, digest, disks, files, network
from builder.digest import file_signature
from builder.engines.nspawn import NspawnEngine
from builder.errors import CheckError, StoreError
from builder.partitions import RootFileSystem
from builder.record import utc_now
from builder.release.clones import boot_clones, clone_results, share_identity
from builder.release.hygiene import hostnames, hygiene_results
from builder.release.inspection import inspect, package_sources
from builder.scratch import staging, sweep_staging
from builder.verify import NO_ENGINE, Verdict, copied, require_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from builder.digest import Facts
    from builder.pipeline import Pipeline
    from builder.project import Project
    from builder.release.clones import Clone
    from builder.reporter import Reporter
    from builder.store import Image
    from builder.verify import CheckResult, CheckSet

_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Release:
    """A published image."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def image(self) -> Path:
        """The QCOW2 file."""
        return self.folder / str(self.manifest["image"]["file"])


def release_name(pipeline: Pipeline, key: str) -> str:
    """Return the release's name: pipeline, variant, version, and the image's key, shortened."""
    return f"{pipeline.name}-{pipeline.variant}-{pipeline.version}-{key[:8]}"


def find_release(
    pipeline: Pipeline, image: Image, output: Path, compression: str, facts: Facts
) -> Release | None:
    """Return the release of ``image``; raise when something else stands in its place.

    Its file is read once, which ``facts`` remember, and again when it looks changed.
    """
    folder = output / release_name(pipeline, image.key)
    if not folder.exists():
        return None
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        made = {**manifest["lineage"][-1], "compression": manifest["image"]["compression"]}
        file, sha256 = folder / manifest["image"]["file"], manifest["image"]["sha256"]
        found = facts.remember(
            f"release {file}", file_signature(file), lambda: digest.digest_file(file)
        )
        facts.save()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _in_the_way(folder, str(error)) from error
    if found != sha256:
        raise _in_the_way(folder, "its file was changed after it was published")
    if made != {**_link(image), "compression": compression}:
        raise _in_the_way(folder, "it was made of another build, or compressed in another way")
    return Release(folder, manifest)


def _in_the_way(folder: Path, reason: str) -> StoreError:
    hint = "a release is never overwritten: move it away, or raise version in stages/pipeline.yml"
    return StoreError(f"{folder} exists and is not this release: {reason}", hint=hint)


def publish(
    project: Project,
    image: Image,
    *,
    output: Path,
    logs: Callable[[], Path],
    reporter: Reporter,
    compression: str = "zstd",
) -> Release:
    """Publish ``image`` below ``output``; one that is published already is left as it is.

    ``logs`` makes the folder for the logs of the boots, when there are any.

    Raises :class:`CheckError` when the image or the published file fails its checks, and
    :class:`StoreError` when the place is taken by something else.
    """
    wanted = project.pipeline, image, output, compression, project.facts
    reporter.concerning(project.pipeline.variant, project.engine.name)
    fresh = False
    sweep_staging(output)
    release = find_release(*wanted)
    if release is None:
        name, waiting = f"release-{image.key}", _waiting(reporter)
        with project.store.locked(name, waiting=waiting):
            # Whoever held the lock may have published it.
            release = find_release(*wanted)
            if release is None:
                fresh = True
                release = _make_of(project, image, output, logs, reporter, compression)
    reporter.published(release.image, release.manifest, fresh=fresh)
    return release


def _make_of(
    project: Project,
    image: Image,
    output: Path,
    logs: Callable[[], Path],
    reporter: Reporter,
    compression: str,
) -> Release:
    """Hold the image and copy its checks, so that both stay as they are, and make the release."""
    with (
        project.store.using(image, waiting=_waiting(reporter)),
        copied(project.checks(image.record.stage, whole=True)) as checks,
    ):
        return _make(project, image, checks, output, logs, reporter, compression)


def _waiting(reporter: Reporter) -> Callable[[str], None]:
    return lambda who: reporter.note(f"waiting for {who}")


def _make(
    project: Project,
    image: Image,
    checks: CheckSet,
    output: Path,
    logs: Callable[[], Path],
    reporter: Reporter,
    compression: str,
) -> Release:
    """Make the release beside its place, and move it there when it has proved itself."""
    pipeline, stage = project.pipeline, image.record.stage
    verdict = _require_verdict(project, image, checks)
    lineage = _lineage(project, image)
    name = release_name(pipeline, image.key)
    with staging(output) as staged:
        disk = staged / f"{name}.qcow2"
        reporter.doing(f"flattening and compressing {stage}")
        disks.flatten(lineage[-1].disk, disk, compression=compression)
        disks.check(disk)
        reporter.doing("looking at the release")
        seen = _inspect(project, disk, lineage, checks, compression)
        reporter.doing("booting two clones of the release, under BIOS and UEFI")
        resources = pipeline.stage(stage).resources
        clones = boot_clones(disk, checks, project.vm, resources, logs(), _beside(project))
        final = _judge(project, seen, clones, image, checks)
        reporter.checked("release", final, known=False)
        manifest = _manifest(pipeline, lineage, disk, (verdict, final), clones, compression)
        manifest["network"] = _lock(staged, lineage)
        manifest["compatibility"] = _compatible(project, image)
        _describe(staged, manifest, disk)
        return _commit(staged, output / name, manifest)


def _beside(project: Project) -> NspawnEngine | None:
    """Return what answers sooner than an emulated VM, where it may be used."""
    engine = project.engine
    emulated = project.vm.accelerator == "tcg"
    return engine if emulated and isinstance(engine, NspawnEngine) else None


def _require_verdict(project: Project, image: Image, checks: CheckSet) -> Verdict:
    stage = image.record.stage
    verdict = project.verdict(image, checks)
    if verdict is None:
        raise CheckError(f"{stage} was not checked yet", hint=project.command(f"verify {stage}"))
    require_passed(verdict, stage, project.command)
    return verdict


def _compatible(project: Project, image: Image) -> list[dict[str, Any]]:
    """Return what is found of the versions that are installed, but for what is simply right."""
    findings = project.require_compatible_image(image)
    return [each.to_json() for each in findings if each.level != "ok"]


def _lineage(project: Project, image: Image) -> tuple[Image, ...]:
    """Return the images from the root to ``image``, every byte of them verified."""
    chain = [project.store.verified(image.key)]
    while parent := chain[0].record.parent:
        above = project.store.find(parent)
        if above is None:
            raise StoreError(f"image {digest.short(parent)} is gone", hint=project.command("build"))
        chain.insert(0, above)
    return tuple(chain)


def _inspect(
    project: Project, disk: Path, lineage: Sequence[Image], checks: CheckSet, compression: str
) -> tuple[CheckResult, ...]:
    """Look at the published file before two machines are started for it; raise what is wrong."""
    image, raw = lineage[-1], disk.with_suffix(".raw")
    started = time.monotonic()
    try:
        disks.unpack(disk, raw)
        packages = image.record.packages
        seen = inspect(disk, raw, packages, made_of=image.disk, wanted=compression)
        given = hostnames(checks.uses)
        seen += tuple(hygiene_results(RootFileSystem.find(raw), disk.parent, given))
        seen += _leaks(project, raw, lineage)
    finally:
        raw.unlink(missing_ok=True)
    seconds = round(time.monotonic() - started, 1)
    bytes_of = image.record.disk.sha256
    verdict = Verdict(image.key, bytes_of, checks.digest(), NO_ENGINE, seconds, seen)
    stage = image.record.stage
    shell = project.command(f"shell {stage}")
    hint = f"what is in the image was left by a role; look inside: {shell}"
    require_passed(verdict, f"the release of {stage}", project.command, hint=hint)
    return seen


def _leaks(project: Project, raw: Path, lineage: Sequence[Image]) -> tuple[CheckResult, ...]:
    """Search the bytes that ship for what only their build should know."""
    from builder.caches.pypi import pip_settings
    from builder.release import leaks  # late, with the caches that it knows: for releases alone

    root = RootFileSystem.find(raw)
    logins = [login for image in lineage for login in image.record.logins]
    index = pip_settings().get("index-url")
    needles = (
        *leaks.key_needles(logins),
        *leaks.pipeline_secrets(project.pipeline, lineage[-1].record.stage),
        *leaks.host_secrets(os.environ, index),
        *leaks.address_needles(os.environ),
        *leaks.mirror_needles(project.pipeline.caches, index, package_sources(root)),
    )
    return tuple(leaks.leak_results(leaks.search(raw, needles), root))


def _judge(
    project: Project,
    seen: Sequence[CheckResult],
    clones: Sequence[Clone],
    image: Image,
    checks: CheckSet,
) -> Verdict:
    """Return the verdict on the published file; raise unless it is good."""
    first, second = clones
    results = (*_asked_in(NO_ENGINE, seen), *first.results, *clone_results(first, second))
    seconds = max(clone.seconds for clone in clones)
    engine, bytes_of = project.vm.name, image.record.disk.sha256
    verdict = Verdict(image.key, bytes_of, checks.digest(), engine, seconds, results)
    stage = image.record.stage
    hint = f"look inside: {project.command(f'shell {stage}')}"
    if share_identity(first, second):
        hint = f"clones share an identity: is `seal` the last role of {stage}?"
    require_passed(verdict, f"the release of {stage}", project.command, hint=hint)
    return verdict


def _asked_in(engine: str, results: Iterable[CheckResult]) -> Iterator[CheckResult]:
    return (replace(result, engine=engine) for result in results)


def _manifest(
    pipeline: Pipeline,
    lineage: Sequence[Image],
    disk: Path,
    verdicts: Sequence[Verdict],
    clones: Sequence[Clone],
    compression: str,
) -> dict[str, Any]:
    record = lineage[-1].record
    shape = disks.info(disk)
    return {
        "schema": 1,
        "name": pipeline.name,
        "version": pipeline.version,
        "variant": pipeline.variant,
        "created": utc_now(),
        "image": {
            "file": disk.name,
            "format": shape.format,
            "compression": compression,
            "sha256": digest.digest_file(disk),
            "bytes": disk.stat().st_size,
            "virtual_bytes": shape.virtual_bytes,
        },
        "lineage": [_link(image) for image in lineage],
        "packages": record.to_json()["packages"],
        "packages_sha256": packages_digest(record.packages),
        "tools": {"vaultbuild": __version__, **record.to_json()["tools"]},
        "boots": [{"firmware": clone.firmware, "seconds": clone.seconds} for clone in clones],
        "verdicts": [_summary(verdict) for verdict in verdicts],
    }


def packages_digest(packages: Mapping[str, Mapping[str, str]]) -> str:
    """Return the name of a whole list of packages: two builds that agree on it have the same."""
    return digest.digest_document({kind: dict(versions) for kind, versions in packages.items()})


def _lock(staged: Path, lineage: Sequence[Image]) -> dict[str, Any] | None:
    """Write what all stages got over the network; return what the manifest says of it.

    None where an image has no lock: it was made by a vaultbuild that kept none.
    """
    locks = [network.read(image.folder / network.LOCK) for image in lineage]
    known = [lock for lock in locks if lock]
    if len(known) < len(locks):
        return None
    whole = network.merge(known)
    files.write_json(staged / network.LOCK, whole.to_json())
    return {
        "file": network.LOCK,
        "sha256": digest.digest_file(staged / network.LOCK),
        "mode": whole.mode,
        "offline": whole.offline,
        "handed": len(whole.handed),
        "tunnels": sorted({each.address for each in whole.tunnels}),
    }


def _link(image: Image) -> dict[str, str]:
    """Return what the manifest says of an image in the lineage: its key and its very bytes."""
    record = image.record
    return {"stage": record.stage, "key": record.key, "sha256": record.disk.sha256}


def _summary(verdict: Verdict) -> dict[str, Any]:
    """Return what the manifest says of a verdict: of each check, where it was asked, too."""
    checks = [asdict(result) for result in verdict.results]
    for check in checks:
        del check["message"]
        check["engine"] = check["engine"] or verdict.engine
    head = {"engine": verdict.engine, "checks": verdict.checks, "seconds": verdict.seconds}
    return {**head, **verdict.counts(), "results": checks}


def _describe(staged: Path, manifest: Mapping[str, Any], disk: Path) -> None:
    files.write_json(staged / _MANIFEST, manifest)
    listing = digest.digest_file(staged / _MANIFEST)
    sums = f"{manifest['image']['sha256']}  {disk.name}\n{listing}  {_MANIFEST}\n"
    if told := manifest["network"]:
        sums += f"{told['sha256']}  {told['file']}\n"
    files.write_text(staged / "SHA256SUMS", sums)


def _commit(staged: Path, place: Path, manifest: Mapping[str, Any]) -> Release:
    if not files.commit(staged, place):
        raise _in_the_way(place, "somebody else published meanwhile")
    return Release(place, manifest)
