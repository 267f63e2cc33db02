"""From a Jinja2 template to HCL that Packer takes, and back again to what it names.

HCL and Jinja2 share their braces, so the templates use ``<%= value %>``, ``<% if %>`` and
``<# comment #>``, and every value goes through the filter ``hcl``. What a template renders to is
read back with python-hcl2 before Packer sees it: mistakes get a line, and the files that the HCL
names become inputs of the stage.

What a template is given stands in two classes. :class:`TemplateContext` holds what the image
depends on. Its :class:`Circumstance` holds ports, paths and sizes: another run may have others and
must find the same image, so :func:`describe` renders with the placeholders of :data:`NEUTRAL`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from builder.digest import digest_bytes
from builder.errors import Problem, ProjectError
from builder.hcl import NOWHERE, escape, named_files, quote, read_back
from builder.vm_options import credential, user_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import jinja2

PackerLine = Literal["1.6", ">=1.7"]
EngineName = Literal["qemu", "nspawn"]

STAGE_TEMPLATE: Final = "stage.pkr.hcl.j2"
ISO_TEMPLATE: Final = "iso.pkr.hcl.j2"
DISK_NAME: Final = "disk.qcow2"
"""What Packer calls the disk in its output folder."""


@dataclass(frozen=True, slots=True)
class Circumstance:
    """Where and how a template is run this time; never in a key.

    Both engines need the SSH fields and ``callback``: the command that Packer runs while the guest
    is up, with the guest's host and port as two more arguments. All others are for ``qemu``.
    """

    private_key: Path
    callback: Sequence[str]
    ssh_host: str = "127.0.0.1"
    ssh_port: int | None = None
    """nspawn: where the guest listens. qemu: Packer chooses and tells the callback."""
    ssh_timeout: str = "10m"
    public_key: str = ""
    accelerator: Literal["kvm", "tcg"] = "kvm"
    cpus: int = 2
    memory_mib: int = 2048
    parent_disk: Path | None = None
    backing: str | None = None
    """The parent as the overlay names it: relative, so that the store can be moved."""
    disk_bytes: int | None = None
    """Virtual size of the disk: without it, Packer makes every overlay 40 GiB large."""
    output_folder: Path | None = None
    console_log: Path | None = None
    qmp_socket: Path | None = None
    seed_files: Sequence[Path] = ()
    """Files of a disk labelled ``cidata``: cloud-init's NoCloud."""
    iso_file: Path | None = None
    kernel_file: Path | None = None
    initrd_file: Path | None = None
    """The ISO's own kernel and first file system, as QEMU starts them."""
    guest_host: str = "10.0.2.100"
    forwards: Mapping[int, str] = field(default_factory=dict)
    """The caches: port of ``guest_host`` → ``host:port`` as this host reaches it."""
    relay: str = "socat"

    @property
    def callback_line(self) -> str:
        """The callback as a line of shell, up to the guest's host and port."""
        return shlex.join(self.callback)

    @property
    def credential(self) -> str:
        """The public key, as the guest's systemd takes it from the firmware (``-smbios``)."""
        return credential(self.public_key)


NEUTRAL: Final = Circumstance(
    private_key=NOWHERE / "private-key",
    callback=(str(NOWHERE / "callback"),),
    ssh_port=22,
    parent_disk=NOWHERE / "parent.qcow2",
    backing=str(NOWHERE / "parent.qcow2"),
    disk_bytes=1 << 30,
    output_folder=NOWHERE / "output",
    console_log=NOWHERE / "console.log",
    qmp_socket=NOWHERE / "qmp.sock",
    iso_file=NOWHERE / "installer.iso",
    kernel_file=NOWHERE / "kernel",
    initrd_file=NOWHERE / "initrd",
)
"""Placeholders: one circumstance that is nobody's, for keys."""


@dataclass(frozen=True, slots=True)
class TemplateContext:
    """What a template may use; its fields are the template's variables."""

    line: PackerLine
    engine: EngineName
    stage: str
    circumstance: Circumstance = NEUTRAL
    network: Literal["caches", "open"] = "caches"
    user: str = "root"
    seeded: bool = False
    """Whether a cloud-init seed disk (``circumstance.seed_files``) is attached."""
    iso: Mapping[str, Any] = field(default_factory=dict)
    """The settings of an unattended installation, where this is one."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """The stage's variables, for a project's own template."""

    def installing(self, settings: Mapping[str, Any]) -> TemplateContext:
        """Return the context of the template that installs an ISO; it has nothing of a stage's."""
        seeded = settings["installer"] == "autoinstall"
        return replace(
            self, engine="qemu", network="caches", variables={}, iso=settings, seeded=seeded
        )

    @property
    def builder(self) -> str:
        """The builder of Packer's that runs, or reaches, the guest."""
        return "qemu" if self.engine == "qemu" else "null"

    @property
    def disk_size(self) -> str | None:
        """The disk's size as Packer reads it."""
        size = self.circumstance.disk_bytes
        if size is None and self.builder == "qemu":
            raise ValueError("Packer must be told the size of the disk")
        return f"{size >> 20}M" if size else None

    @property
    def netdev(self) -> str:
        """The value of QEMU's ``-netdev``: SSH in, the caches out, and nothing else of the host.

        It replaces Packer's own, which listens on every address; Packer fills in the port. Nothing
        leads into an installer.
        """
        here = self.circumstance
        pairs = here.forwards.items()
        leads = {(here.guest_host, guest): address for guest, address in pairs}
        return user_network(
            "user.0",
            None if self.iso else "{{ .SSHHostPort }}",
            dict(sorted(leads.items())),
            relay=here.relay,
        )


_NAMES: Final = (
    *(part.name for part in fields(TemplateContext)),
    "builder",
    "disk_size",
    "netdev",
)


@dataclass(frozen=True, slots=True)
class Described:
    """What a stage's key holds of its template: a digest, and the files that the HCL names."""

    digest: str
    files: tuple[Path, ...]


def neutral(context: TemplateContext) -> TemplateContext:
    """Return ``context`` without circumstance: the same for every run on every host."""
    return replace(context, circumstance=NEUTRAL)


def describe(
    template: Path, context: TemplateContext, *, search: Sequence[Path], base: Path
) -> Described:
    """Return what the key holds of a template; see :func:`render` and :func:`named_files`."""
    text = render(template, neutral(context), search=search)
    document = read_back(text, template)
    return Described(digest_bytes(text.encode()), named_files(document, base, template))


def describe_installer(folder: Path, context: TemplateContext) -> str:
    """Return what a source's key holds of the template that installs an ISO: a digest.

    ``folder`` has the templates. What is installed does not depend on the line of Packer.
    """
    context = replace(neutral(context), line="1.6")
    return digest_bytes(render(folder / ISO_TEMPLATE, context, search=[folder]).encode())


def render(template: Path, context: TemplateContext, *, search: Sequence[Path] = ()) -> str:
    """Return the HCL of a template; partials are looked for beside it, then in ``search``.

    Raises :class:`ProjectError` with the template's line: a syntax error, an undefined variable, a
    partial that does not exist, a value that HCL cannot say.
    """
    import jinja2  # late: `plan` remembers what templates rendered to

    environment = _environment([template.parent, *search])
    variables = {name: getattr(context, name) for name in _NAMES}
    try:
        return environment.get_template(template.name).render(variables)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise ProjectError([_template_problem(template, error)]) from error


def _environment(folders: Sequence[Path]) -> jinja2.Environment:
    import jinja2  # late, as above

    environment = jinja2.Environment(  # noqa: S701 - HCL is no HTML; the filter hcl escapes
        variable_start_string="<%=",
        variable_end_string="%>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(folders),
    )
    environment.filters["hcl"] = quote
    environment.filters["hcl_inner"] = escape
    return environment


def _template_problem(template: Path, error: Exception) -> Problem:
    import jinja2  # late, as above

    if isinstance(error, jinja2.TemplateNotFound):
        return Problem(template, _not_found(template, str(error.name)))
    if isinstance(error, jinja2.TemplateSyntaxError):
        return Problem(Path(error.filename or template), str(error.message), error.lineno)
    place, line = _raised_at(error) or (template, None)
    hint = None
    if isinstance(error, jinja2.UndefinedError):
        hint = f"a template is given: {', '.join(_NAMES)}"
    return Problem(place, str(error), line, hint=hint)


def _not_found(template: Path, name: str) -> str:
    if name == template.name:
        return "there is no such template"
    return f"it includes {name}, which does not exist"


def _raised_at(error: Exception) -> tuple[Path, int] | None:
    """Return the template's file and line: Jinja2 puts them into the traceback."""
    found = None
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith(".j2"):
            found = (Path(name), trace.tb_lineno)
        trace = trace.tb_next
    return found
