"""One project, one variant, one engine: everything that a command needs to plan and to build.

This is where the pure parts meet the disk: the pipeline is loaded, its inputs are digested, the
store is asked what it holds. What is slow and rarely changes is remembered in ``cache/var/index``.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import libraries, network, process
from builder.compat.judgement import Judge
from builder.digest import Facts, StatCache, file_signature, short
from builder.engines.nspawn import NspawnEngine
from builder.engines.qemu import QemuEngine
from builder.errors import StoreError
from builder.estimate import Estimate, planned_parts
from builder.history import History
from builder.inputs import (
    StageInputs,
    Toolset,
    lineage_inputs,
    remembered_installer,
    remembered_templates,
)
from builder.packer import Packer
from builder.pipeline import load_pipeline
from builder.plan import make_plan
from builder.provision import PROVISIONING_VERSION, strategy_for
from builder.sources.bootstrap import BOOTSTRAP_VERSION
from builder.store import DISK, Store
from builder.texts import changed_lines
from builder.verify import CheckSet, checks_of, read_verdict, verdict_path

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from builder.compat.finding import Finding
    from builder.engines import Engine
    from builder.network import NetworkLock
    from builder.pipeline import Pipeline, Stage
    from builder.plan import Plan
    from builder.reasons import Reason
    from builder.store import Image
    from builder.template import Described, TemplateContext
    from builder.verify import Verdict

# The modules that turn a template into its description.
_RENDERING = ("template.py", "hcl.py", "vm_options.py")


class Project:
    """A project folder seen for one variant and one engine."""

    def __init__(self, folder: Path, *, variant: str | None = None, engine: str = "auto") -> None:
        """``variant`` None is the pipeline's default; ``engine`` is auto, qemu or nspawn."""
        self.folder = folder.absolute()
        self.var = self.folder / "cache/var"
        self.index = self.var / "index"
        self.store = Store(self.var)
        self._images: dict[str, Image] = {}
        self._variant = variant
        self._engine = engine

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline of the variant; raises ProjectError with every mistake of every file."""
        found = load_pipeline(self.folder, self._variant, cache=self.index / "pipeline.json")
        return Judge(found, self.cache, self.facts).settled()

    @cached_property
    def judge(self) -> Judge:
        """Who says whether versions go together."""
        return Judge(self.pipeline, self.cache, self.facts)

    def require_compatible(self, name: str) -> list[Finding]:
        """Return what is found of the versions that a stage wants; raise where they cannot be."""
        return self.judge.require([stage.name for stage in self.pipeline.lineage(name)])

    def require_compatible_image(self, image: Image) -> list[Finding]:
        """Return what is found of the versions that an image has; raise as above."""
        record = image.record
        stages = [stage.name for stage in self.pipeline.lineage(record.stage)]
        return self.judge.require_installed(stages, record.packages, record.stage)

    @cached_property
    def cache(self) -> StatCache:
        """What the project's files hold."""
        return StatCache(self.folder, self.index / "files.json")

    @cached_property
    def facts(self) -> Facts:
        """What was derived before."""
        return Facts(self.index / "facts.json")

    @cached_property
    def engine(self) -> Engine:
        """The engine that stages are built and checked with."""
        if self._engine == "nspawn" or (self._engine == "auto" and not self._kvm):
            return NspawnEngine()
        return self.vm

    @cached_property
    def vm(self) -> QemuEngine:
        """The engine qemu, with KVM where it works: releases are always booted by it."""
        return QemuEngine("kvm" if self._kvm else "tcg")

    @cached_property
    def _kvm(self) -> bool:
        from builder import kvm  # late: nothing else needs it

        works, _ = kvm.usable(self.index / "kvm.json")
        return works

    @cached_property
    def packer(self) -> Packer:
        """The Packer that this host has."""
        program = process.require("packer")
        signature = file_signature(Path(program)) + os.environ.get("PACKER_PLUGIN_PATH", "")
        known = self.facts.remember("packer", signature, _find_packer)
        found = Packer(
            program, (known["major"], known["minor"], known["patch"]), _path(known["plugins"])
        )
        # A plugin that was missing may have come since; one that was there is worth remembering.
        return found if found.line == "1.6" or found.plugins else Packer.find()

    def command(self, words: str) -> str:
        """Return what to type, such as ``stage final``, so that it means what this project is."""
        engine = "" if self._engine == "auto" else f" --engine {self._engine}"
        return self.pipeline.command(words) + engine

    def target(self, name: str | None) -> str:
        """Return ``name`` when it is a stage; without a name, the pipeline's last stage."""
        return self.pipeline.stage(name).name if name else self.pipeline.stages[-1].name

    def aside(self) -> tuple[str, ...]:
        """Return the stages that the pipeline's last one does not stand on."""
        line = {stage.name for stage in self.pipeline.lineage(self.target(None))}
        return tuple(each.name for each in self.pipeline.stages if each.name not in line)

    def inputs(self, name: str) -> tuple[StageInputs, ...]:
        """Return what each stage from the root to ``name`` depends on; no pin may be open."""
        self.pipeline.require_filled()
        found = lineage_inputs(self.pipeline, name, tools=self._toolset(), cache=self.cache)
        self.cache.save()
        self.facts.save()
        return found

    def plan(
        self,
        name: str,
        inputs: tuple[StageInputs, ...],
        *,
        force: bool = False,
        moved: Mapping[str, Sequence[Reason]] | None = None,
    ) -> Plan:
        """Decide what must run to have the image of the stage ``name``.

        ``moved``: by stage, what moved upstream since it was built.
        """
        lineage = self.pipeline.lineage(name)
        keys = {stage.stage: stage.key for stage in inputs}
        variant = self.pipeline.variant
        present, last = self._present(keys.values()), {}
        if force or moved or not all(key in present for key in keys.values()):
            # Only what is not there must be told apart from what was.
            last = {stage.name: self.store.last(variant, stage.name) for stage in lineage}
        decided = make_plan(
            inputs,
            variant=variant,
            present=present,
            last=last,
            verdicts=set(self._judged(lineage, keys)),
            checkpoints=set(self._checkpoints(inputs, present)),
            force={name} if force else frozenset(),
            moved=moved,
        )
        self.cache.save()
        return decided

    def current(self) -> dict[str, str]:
        """Return the place of every disk that runs of any variant would use as the files are now.

        Each with the place of the image of its stage: the image itself, its checkpoints, the
        source.
        """
        found: dict[str, str] = {}
        for variant in self.pipeline.variants:
            found |= Project(self.folder, variant=variant, engine=self._engine).current_of_variant()
        return found

    def current_of_variant(self) -> dict[str, str]:
        """Return what :meth:`current` does, of this variant; with open pins nothing runs."""
        stages = () if self.pipeline.open_pins else self.pipeline.stages
        parents = {stage.parent for stage in stages}
        leaves = [stage.name for stage in stages if stage.name not in parents]
        lineages = [self.inputs(name) for name in leaves]
        found = {f"images/{each[0].keys[0]}": f"images/{each[0].keys[0]}" for each in lineages}
        for inputs in (inputs for lineage in lineages for inputs in lineage):
            image = f"images/{inputs.key}"
            found |= {f"checkpoints/{key}": image for _, key in inputs.roles[:-1]}
            found[image] = image
        return found

    @cached_property
    def history(self) -> History:
        """How long the parts of earlier runs took."""
        return History(self.var / "history.sqlite")

    def estimate(self, plan: Plan, inputs: Sequence[StageInputs]) -> Estimate:
        """Return what the parts of a plan took before; where nothing runs, nobody is asked."""
        if not plan.has_work:
            return Estimate()
        source = plan.steps[0].action == "build" and self.store.find(inputs[0].keys[0]) is None
        last = plan.steps[-1].stage
        checked = {
            step.stage
            for step in plan.steps
            if step.verify and self.checks(step.stage, whole=step.stage == last).folders
        }
        parts = planned_parts(plan, self.engine.name, source=source, checked=checked)
        wanted = [part for found in parts.values() for part in found]
        return Estimate(parts, self.history.usual(wanted))

    def _present(self, keys: Iterable[str]) -> dict[str, Image]:
        """Return the images that are there, by key; each is looked for once."""
        self._images |= {key: image for key in keys if (image := self.store.find(key))}
        return self._images

    def _checkpoints(self, inputs: Iterable[StageInputs], present: Container[str]) -> Iterator[str]:
        """Yield the keys of the checkpoints that a stage without an image can go on from."""
        for stage in inputs:
            if stage.key not in present:
                yield from (key for _, key in stage.roles if self.store.checkpoint(key))

    def image(self, name: str) -> Image:
        """Return the image of a stage as its files are now; raise when it is not built."""
        key = self.inputs(name)[-1].key
        image = self.store.find(key)
        if image is None:
            hint = self.command(f"stage {name}")
            if last := self.store.last_image(self.pipeline.variant, name):
                words = self.command(f"show {name} --key {short(last.key)}")
                hint += f"\nthe last one, of {last.record.created}: {words}"
            raise StoreError(f"{name} is not built as it stands now", hint=hint)
        return image

    def packages_below(self, stage: Stage) -> Mapping[str, str] | None:
        """Return the Debian packages of the image that a stage stands on, as its last build had it.

        What is below the root has no record of packages.
        """
        if stage.parent is None:
            return None
        image = self.store.find(self.inputs(stage.parent)[-1].key)
        return image.record.packages.get("dpkg") if image else None

    def network_locks(self) -> tuple[NetworkLock, ...]:
        """Return the locks of the images as they stand now, of all stages, and of their source."""
        found: list[NetworkLock] = []
        for stage in self.pipeline.stages:
            found += self._locks(self.inputs(stage.name)[-1])
        return tuple(found)

    def _locks(self, inputs: StageInputs) -> Iterator[NetworkLock]:
        """Yield the lock of a stage's image; before the root's, that of its source."""
        keys = [inputs.keys[0]] if inputs.documents[0]["kind"] == "source" else []
        for key in (*keys, inputs.key):
            image = self.store.find(key)
            if image and (lock := network.read(image.folder / network.LOCK)):
                yield lock

    def disk_to_open(self, name: str, *, failed: bool) -> tuple[Path, str]:
        """Return the disk of a stage as it stands now, and the name of the lock that holds it.

        What a failed run kept is taken where it is asked for, and where there is no image.
        """
        image = self.store.find(self.inputs(name)[-1].key)
        if failed or (image is None and self._failed_disk(name).exists()):
            disk = self.failed_disk(name)
            return disk, f"failed-{disk.parent.name}"
        image = image or self.image(name)
        return image.disk, image.key

    def _failed_disk(self, name: str) -> Path:
        return self.var / "failed" / f"{self.pipeline.variant}-{name}" / DISK

    def failed_disk(self, name: str) -> Path:
        """Return the disk that a failed run of a stage kept."""
        disk = self._failed_disk(name)
        if not disk.exists():
            hint = self.command(f"stage {name} --keep-failed")
            raise StoreError(f"no failed run of {name} kept its disk", hint=hint)
        return disk

    def changed_lines(self, reason: Reason) -> Iterator[str]:
        """Yield the lines of a file that are the reason for something."""
        if reason.kind == "file":
            yield from changed_lines(self.var, self.folder / reason.what, reason.before)

    def dates(self, plan: Plan) -> dict[str, str]:
        """Return by stage when the images that a plan reuses were built."""
        found = {step.stage: self._images.get(step.key) for step in plan.steps}
        return {name: image.record.created for name, image in found.items() if image}

    def checks(self, name: str, *, whole: bool) -> CheckSet:
        """Return the checks of a stage: its own, or the ``whole`` of its lineage."""
        lineage = self.pipeline.lineage(name)
        chosen = lineage if whole else lineage[-1:]
        pipeline = self.pipeline
        variables, uses = pipeline.variables_of(name), pipeline.uses_of(name)
        return checks_of(chosen, self.cache, pipeline.variant, variables, uses)

    def verdict(self, image: Image, checks: CheckSet) -> Verdict | None:
        """Return what the checks said about an image, when they were asked before.

        About these very bytes: an image that was built again has the same key.
        """
        found = read_verdict(verdict_path(self.var, image.key, checks.digest(), self.engine.name))
        return found if found and found.disk == image.record.disk.sha256 else None

    def _judged(self, lineage: tuple[Stage, ...], keys: dict[str, str]) -> Iterator[str]:
        """Yield the keys of the images that passed the checks as they are now."""
        for stage in lineage:
            image, last = self._images.get(keys[stage.name]), stage is lineage[-1]
            choices = (True,) if last else (True, False)
            sets = (self.checks(stage.name, whole=whole) for whole in choices)
            if image and any(self._passed(image, checks, last=last) for checks in sets):
                yield image.key

    def _passed(self, image: Image, checks: CheckSet, *, last: bool) -> bool:
        if not checks.folders:
            # A stage on the way may have none of its own; the stage that was asked for may not.
            return not last
        verdict = self.verdict(image, checks)
        return verdict is not None and verdict.passed

    def seeded(self, stage: Stage) -> bool:
        """Whether a stage boots a cloud image for the first time: with words for cloud-init."""
        fresh = stage.parent is None and self.pipeline.source.kind == "cloud_image"
        return fresh and self.engine.name == "qemu"

    def _toolset(self) -> Toolset:
        distributions = self._distributions()
        versions = {
            "packer": str(self.packer),
            "provisioning": str(PROVISIONING_VERSION),
            **distributions,
            "strategy": strategy_for(
                distributions["ansible-core"], distributions.get(libraries.OPTIONAL)
            ).name,
        }
        names = [stage.name for stage in self.pipeline.stages]
        context = {
            "variant": self.pipeline.variant,
            "engine": self.engine.name,
            "line": self.packer.line,
            "source": self.pipeline.source.kind,
            "variables": {name: self.pipeline.variables_of(name) for name in names},
            "program": [file_signature(Path(__file__).with_name(name)) for name in _RENDERING],
        }
        template = remembered_templates(self._describe, context, cache=self.cache, facts=self.facts)
        installer = remembered_installer(
            self._describe_installer, context, root=self.pipeline.stages[0],
            cache=self.cache, facts=self.facts,
        )  # fmt: skip
        return Toolset(self.engine.name, versions, BOOTSTRAP_VERSION, template, installer)

    def _distributions(self) -> dict[str, str]:
        """Return the versions of what provisions, asking only after an installation."""
        place = file_signature(Path(libraries.site_packages()))
        inputs = f"{place} {' '.join(libraries.SHAPING)}"
        return self.facts.remember("libraries", inputs, libraries.installed)

    def template_context(self, stage: Stage) -> TemplateContext:
        """Return what the template of a stage is given, in a circumstance that is nobody's."""
        from builder.template import TemplateContext  # late: brings Jinja2 and HCL

        return TemplateContext(
            line=self.packer.line,
            engine=self.engine.name,
            stage=stage.name,
            network=stage.network,
            seeded=self.seeded(stage),
            variables=self.pipeline.variables_of(stage.name),
        )

    def _describe_installer(self) -> str:
        from builder.template import describe_installer  # late, as below

        context, settings = (
            self.template_context(self.pipeline.stages[0]),
            self.pipeline.source.settings,
        )
        return describe_installer(self.folder / "packer", context.installing(settings))

    def _describe(self, stage: Stage) -> Described:
        from builder.template import describe  # late, and the answer is remembered

        search, template = [self.folder / "packer"], self.folder / stage.template
        return describe(template, self.template_context(stage), search=search, base=self.folder)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _find_packer() -> dict[str, Any]:
    found = Packer.find()
    major, minor, patch = found.version
    plugins = str(found.plugins) if found.plugins else None
    return {"major": major, "minor": minor, "patch": patch, "plugins": plugins}
