"""An ISO, installed: its own installer, at work in a VM that Packer starts and nobody watches.

The installer reaches the packages that come through the gateway, and nothing else. It answers to no
connection: that it is done is told by the machine that it switches off, and that it did its work by
the disk. It may stop at a question for ever, so there is a time limit, and the console's last lines
say where it stands.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder import process, template
from builder.engines import CONSOLE, MONITOR
from builder.engines.greeting import silent
from builder.engines.qemu import GUEST_HOST, require_no_comma
from builder.errors import CommandError, StoreError
from builder.scratch import scratch
from builder.sources import iso
from builder.supplies import GUEST_PORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from builder.caches import Endpoints
    from builder.project import Project
    from builder.reporter import Reporter

_RENDERED = "source.pkr.hcl"
_SHOWN_EVERY = 30  # seconds
_TAIL_BYTES = 4000
_WIDTH = 100
_STOPPED = (
    "it may wait at a question that its answers leave open; source.iso.timeout in "
    "stages/pipeline.yml gives it longer"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """One run of an installer.

    ``medium`` is the ISO; ``snapshot`` has the answers and the templates; ``staged`` is the folder
    where the disk is made; ``key`` names what it will be.
    """

    project: Project
    medium: Path
    snapshot: Path
    staged: Path
    logs: Path
    key: str
    locks: Sequence[int]
    reporter: Reporter

    @property
    def work(self) -> Path:
        """A folder of the run's own."""
        return self.staged / "work"

    @property
    def console(self) -> Path:
        """The log of the installer's console."""
        return self.logs / CONSOLE


def render(
    project: Project, circumstance: template.Circumstance = template.NEUTRAL, *, packer: Path
) -> str:
    """Return the Packer template that installs the root disk from an ISO; ``packer`` has its text.

    Raises :class:`StoreError` when the pipeline starts from something else.
    """
    source, root = project.pipeline.source, project.pipeline.stages[0]
    if source.kind != "iso":
        hint = f"the templates are those of the stages: {project.command(f'render {root.name}')}"
        raise StoreError(f"a {source.kind} source is made without Packer", hint=hint)
    context = project.template_context(root).installing(source.settings)
    context = dataclasses.replace(context, circumstance=circumstance)
    return template.render(packer / template.ISO_TEMPLATE, context, search=[packer])


def install(run: Installation, disk: Path, seen: Endpoints) -> None:
    """Make the QCOW2 ``disk`` by the installer; ``seen`` are the caches at the gateway.

    Raises :class:`CommandError`, with the console's last lines, when the installer does not come to
    its end in time or leaves no system on the disk, and what Packer's run raises.
    """
    run.project.packer.require_plugins("qemu")
    process.require("qemu-system-x86_64")
    process.require("xorriso")
    output = run.staged / "packer"
    for path in (output, run.medium):
        require_no_comma(path)
    run.work.mkdir()
    with scratch() as sockets:
        here = _circumstance(run, seen, output, sockets / MONITOR)
        rendered = run.work / _RENDERED
        rendered.write_text(render(run.project, here, packer=run.snapshot / "packer"))
        shutil.copyfile(rendered, run.logs / _RENDERED)
        with _shown(run.console, run.reporter.doing):
            _run_packer(run, rendered)
    (output / template.DISK_NAME).replace(disk)
    shutil.rmtree(output)
    _judge(run, disk)
    shutil.rmtree(run.work)


def _circumstance(
    run: Installation, seen: Endpoints, output: Path, monitor: Path
) -> template.Circumstance:
    pipeline = run.project.pipeline
    kernel, initrd = run.work / "kernel", run.work / "initrd"
    iso.extract(run.medium, pipeline.source.settings["kernel"], kernel)
    iso.extract(run.medium, pipeline.source.settings["initrd"], initrd)
    address = seen.addresses.get("apt")
    return dataclasses.replace(
        template.NEUTRAL,
        accelerator=run.project.vm.accelerator,
        cpus=pipeline.resources.cpus,
        memory_mib=pipeline.resources.memory_mib,
        disk_bytes=pipeline.resources.disk_bytes,
        output_folder=output,
        console_log=run.console,
        qmp_socket=monitor,
        iso_file=run.medium,
        kernel_file=kernel,
        initrd_file=initrd,
        seed_files=_told(run, initrd, seen),
        guest_host=GUEST_HOST,
        forwards={GUEST_PORTS["apt"]: f"{address.host}:{address.port}"} if address else {},
        relay=process.require("socat"),
    )


def _told(run: Installation, initrd: Path, seen: Endpoints) -> tuple[Path, ...]:
    """Put the answers where the installer looks for them; return the files of a disk of theirs."""
    source = run.project.pipeline.source
    answers = iso.filled(
        (run.snapshot / source.paths["answers"]).read_text(),
        apt_proxy=seen.seen_at(GUEST_HOST, GUEST_PORTS).apt,
        mirror=source.settings["mirror"],
    )
    if source.settings["installer"] == "preseed":
        iso.add_preseed(initrd, answers)
        return ()
    return iso.write_seed(run.work, answers, identity=run.key)


def _run_packer(run: Installation, rendered: Path) -> None:
    limit = run.project.pipeline.source.settings["timeout"]
    try:
        run.project.packer.build(
            rendered,
            work=run.work,
            log=run.logs / "packer.log",
            keep_fds=run.locks,
            timeout=limit,
            blame=run.project.folder / "packer" / template.ISO_TEMPLATE,
            told=lambda message: run.reporter.packer("source", message),
        )
    except CommandError as error:
        if error.status is not None:
            raise
        message = f"the installer did not come to its end within {limit // 60} minutes"
        raise silent(CommandError(message, hint=_STOPPED), run.console) from error


def _judge(run: Installation, disk: Path) -> None:
    try:
        left = iso.require_installed(disk, run.work)
    except CommandError as error:
        raise silent(error, run.console) from error
    if left:
        run.reporter.warning(left)


@contextlib.contextmanager
def _shown(console: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Tell now and then what an installer says last, while the block runs."""
    stop = threading.Event()
    follower = threading.Thread(target=_follow, args=(console, stop, tell))
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join()


def _follow(
    console: Path, stop: threading.Event, tell: Callable[[str], None], every: float = _SHOWN_EVERY
) -> None:
    told = ""
    while not stop.wait(every):
        if (line := last_line(console)) != told:
            told = line
            tell(f"installing: {line}")


def last_line(console: Path) -> str:
    """Return the last thing on a console that can be read; nothing where there is none."""
    from builder.failures import plain  # late: brings the catalogue

    try:
        with console.open("rb") as file:
            file.seek(max(0, console.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    # A text of progress begins its line again with each step.
    lines = (line.strip() for line in plain(text.replace("\r", "\n")).splitlines())
    return next((line[-_WIDTH:] for line in reversed([*lines]) if line.isprintable() and line), "")
