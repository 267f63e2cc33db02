"""What may stand in each kind of file of a project.

One pydantic model per kind of file, and one type per kind of value, each with what to write
instead. Models judge a file by itself; how files fit together is judged in :mod:`builder.resolve`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from builder.open_pins import is_open
from builder.role_names import called
from builder.suggest import suggestion

_SHOWN = 40
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


class WrongValueError(ValueError):
    """A value is not what it should be; says what to write instead."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def shown(value: object) -> str:
    """Return a value as it may stand in a message."""
    text = f'"{value}"' if isinstance(value, str) else _described(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _described(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return str(value)


def form(pattern: str, message: str, hint: str) -> AfterValidator:
    """Return a validator of text that must have a form."""
    expected = re.compile(pattern)

    def check(text: str) -> str:
        if not expected.fullmatch(text):
            raise WrongValueError(f"{shown(text)} {message}", hint)
        return text

    return AfterValidator(check)


def parse_size(value: object) -> int:
    """Return the bytes that ``8G`` or ``512M`` stands for."""
    match = (
        re.fullmatch(r"([1-9][0-9]*) ?([MGT])(?:iB)?", value) if isinstance(value, str) else None
    )
    if not match:
        raise WrongValueError(f"{shown(value)} is no size", "write it as 8G or 512M")
    return int(match[1]) * _UNITS[match[2]]


def parse_age(value: object) -> int:
    """Return the seconds that ``72h`` or ``30d`` stands for."""
    match = re.fullmatch(r"([0-9]+)([mhdw])", value) if isinstance(value, str) else None
    if not match:
        raise WrongValueError(f"{shown(value)} is no age", "write it as 72h, 30d or 4w")
    return int(match[1]) * {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[match[2]]


def _parse_duration(value: object) -> int:
    try:
        seconds = parse_age(value)
    except WrongValueError:
        seconds = 0
    if not seconds:
        raise WrongValueError(f"{shown(value)} is no time", "write it as 90m or 3h")
    return seconds


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise WrongValueError(
            f"{shown(value)} is no address of this host",
            "write an IP address: 127.0.0.1 is this host alone, 0.0.0.0 is everybody",
        ) from None


def _parse_cpus(value: int) -> int:
    if value < 1:
        raise WrongValueError(f"{value} is no number of CPUs", "write 1 or more")
    return value


def _whole(values: list[str]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise WrongValueError(f"{shown(repeated[0])} is listed twice", "remove one of them")
    return values


def parse_name(text: str) -> str:
    """Return a name as it is, if it is one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", text):
        hint = 'use small letters, digits, "." and "-": gpu-host'
        raise WrongValueError(f"{shown(text)} is no name", hint)
    return text


Name = Annotated[str, AfterValidator(parse_name)]
RoleName = Annotated[
    str,
    form(r"[a-z][a-z0-9_]*", "is no role's name", 'use small letters, digits and "_"'),
]
VariableName = Annotated[
    str,
    form(r"[a-z_][a-z0-9_]*", "is no variable's name", 'use small letters, digits and "_"'),
]
Variables = dict[VariableName, Any]
Version = Annotated[
    str,
    form(
        r"[0-9]+(\.[0-9]+)*([-+~.][0-9A-Za-z]+)*",
        "is no version",
        'begin with a number: "1.0.0", "2026.11-rc1"',
    ),
]
Package = Annotated[
    str,
    form(
        r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[0-9][0-9A-Za-z.+:~-]*)?",
        "is no package",
        "write name or name=version",
    ),
]
Suite = Annotated[
    str, form(r"[a-z][a-z0-9./-]*", "is no suite", "write its code name, such as trixie")
]
AptSource = Annotated[
    str,
    form(
        r"deb (\[[^\]]+\] )?\S+ \S+( \S+)*",
        "is no apt source",
        "write it on one line: deb URL SUITE COMPONENT",
    ),
]
Sha256 = Annotated[
    str,
    form(
        r"[0-9a-fA-F]{64}|fill in: .+",
        "is no SHA-256",
        "64 hexadecimal digits, as sha256sum prints them",
    ),
    AfterValidator(lambda text: text if is_open(text) else text.lower()),
]
Size = Annotated[int, BeforeValidator(parse_size)]
Age = Annotated[int, BeforeValidator(parse_age)]
Duration = Annotated[int, BeforeValidator(_parse_duration)]
Listen = Annotated[str, AfterValidator(_address)]
Prefix = Annotated[
    str,
    form(
        r"https?://[^\s/@]+/(\S*/)?",
        "is no prefix of URLs",
        "write http://HOST/FOLDER/, with the slash at its end",
    ),
]
Cpus = Annotated[int, AfterValidator(_parse_cpus)]
Location = Annotated[
    str,
    form(
        r"((https?|file)://\S+)|((?!\w+://)\S.*)",
        "is no place to fetch from",
        "write an http://, https:// or file:// URL, or a path",
    ),
]
Host = Annotated[
    str,
    form(
        r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
        r"(:[0-9]{1,5})?",
        "is no host",
        "write a name without a scheme or a path: files.example, files.example:8443, *.example",
    ),
]
HttpUrl = Annotated[str, form(r"https?://[^\s/]+\S*", "is no URL", "write it as http://host:port/")]
InIso = Annotated[
    str,
    form(
        r"/?[^/\s]+(/[^/\s]+)*",
        "is no file of an ISO",
        "write its path there: /casper/vmlinuz",
    ),
]
Mirror = Annotated[
    str,
    form(
        r"http://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(/[^\s/]+)+/?",
        "is no archive that an installer reaches",
        "write http://HOST/FOLDER: what is encrypted passes no cache",
    ),
]
Template = Annotated[
    str,
    form(
        r"[^/]+\.pkr\.hcl\.j2", "is no template", "name a *.pkr.hcl.j2 file of this stage's folder"
    ),
]
Names = Annotated[list[Name], AfterValidator(_whole), Field(min_length=1)]


class Part(BaseModel):
    """A mapping in a file: its keys are fixed and its values have the type that is written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResourcesPart(Part):
    """What a guest gets, and the size of the disk that the root stage makes."""

    cpus: Cpus = 2
    memory: Size = 4 * _UNITS["G"]
    disk: Size = 8 * _UNITS["G"]


class VariantResourcesPart(Part):
    """The disk of a variant that needs more of it, or less."""

    disk: Size | None = None


class StageResourcesPart(Part):
    """What one stage needs more or less of. The disk is the root's, and so the pipeline's."""

    cpus: Cpus | None = None
    memory: Size | None = None


class CachePart(Part):
    """A cache: ours, at an address and a port of this host, or the one at a URL."""

    url: HttpUrl | None = None
    port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    listen: Listen | None = None


class AptCachePart(CachePart):
    """The cache of packages. Where a mirror is in trouble, others are asked: URL prefix by prefix.

    No key: mirrors have the same bytes.
    """

    mirrors: dict[Prefix, Annotated[list[Prefix], Field(min_length=1)]] = {}


class IsosCachePart(CachePart):
    """The cache of disk images and installers; after ``ttl`` upstream is asked whether it moved."""

    ttl: Age = 72 * 3600


class ModelsCachePart(IsosCachePart):
    """The cache of models; ``upstream`` is the hub, where it is not the host's."""

    upstream: HttpUrl | None = None


class CachesPart(Part):
    """What builds download comes through these."""

    apt: AptCachePart = AptCachePart()
    pypi: CachePart = CachePart()
    wheels: CachePart = CachePart()
    isos: IsosCachePart = IsosCachePart()
    models: ModelsCachePart = ModelsCachePart()


class BootstrapPart(Part):
    """A root filesystem made of packages."""

    suite: Suite
    components: Names = ["main"]
    mirrors: list[AptSource] | None = None
    packages: list[Package] = Field(min_length=1)
    hold: list[Package] = []
    cmdline: str = "console=tty0 console=ttyS0,115200"

    @model_validator(mode="after")
    def _hold_what_is_there(self) -> BootstrapPart:
        names = [package.partition("=")[0] for package in self.packages]
        for package in self.hold:
            if package not in names:
                message = f"{shown(package)} is held but not among the packages"
                raise WrongValueError(message, suggestion(package, names))
        return self


class SeedPart(Part):
    """What cloud-init finds on its NoCloud disk."""

    user_data: dict[str, Any] = {}


class CloudImagePart(Part):
    """A ready disk image that configures itself with cloud-init."""

    url: Location
    sha256: Sha256
    seed: SeedPart = SeedPart()


class IsoPart(Part):
    """An installer that runs unattended: the kernel of its ISO, and what it is told.

    ``mirror`` and ``timeout`` are in no key.
    """

    url: Location
    sha256: Sha256
    installer: Literal["preseed", "autoinstall"]
    answers: str
    kernel: InIso
    initrd: InIso
    cmdline: str = ""
    mirror: Mirror | None = None
    timeout: Duration = 3 * 3600


class SourcePart(Part):
    """What the root stage starts from."""

    bootstrap: BootstrapPart | None = None
    cloud_image: CloudImagePart | None = None
    iso: IsoPart | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> SourcePart:
        if len(self.model_fields_set) != 1 or None in (
            getattr(self, n) for n in self.model_fields_set
        ):
            named = " and ".join(sorted(self.model_fields_set)) or "nothing"
            raise WrongValueError(
                f"names {named}", "give exactly one of bootstrap, cloud_image, iso"
            )
        return self

    @property
    def kind(self) -> str:
        """The one source that is given."""
        return next(iter(self.model_fields_set))


class RolePart(Part):
    """A role in a stage's list: its name alone, or with a name of this use's own, and variables."""

    role: RoleName
    as_: Name | None = Field(None, alias="as")
    variables: Variables = {}

    @property
    def name(self) -> str:
        """What the stage calls it."""
        return called(self.role, self.as_)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"role": value} if isinstance(value, str) else value


class OverridePart(Part):
    """What a variant changes in a stage: variables are merged, roles and hosts replaced."""

    variables: Variables = {}
    roles: list[RolePart] | None = None
    hosts: Annotated[list[Host], AfterValidator(_whole)] | None = None


Rule = Literal[
    "driver-end", "driver-missing", "driver-module", "one-module", "kernel-module",
    "fabric-version", "fabric-platform", "gpu-known", "gpu-driver", "gpu-module", "gpu-cuda",
    "cuda-driver", "cudnn", "one-cuda", "framework-known", "framework-python", "framework-needs",
]  # fmt: skip
"""The rules of :mod:`builder.compat.rules`."""


class VariantPart(Part):
    """One named choice of distribution, driver and frameworks.

    ``accept``: rules of what goes together that this variant need not keep.
    """

    description: str = ""
    source: SourcePart
    resources: VariantResourcesPart = VariantResourcesPart()
    variables: Variables = {}
    accept: list[Rule] = []
    stages: dict[str, OverridePart] = {}


class PipelineFile(Part):
    """``stages/pipeline.yml``."""

    schema_: Literal[1] = Field(alias="schema")
    name: Name
    version: Version
    variant: Name
    stages: Names
    resources: ResourcesPart = ResourcesPart()
    caches: CachesPart = CachesPart()
    variables: Variables = {}
    variants: dict[Name, VariantPart] = Field(min_length=1)


class StageFile(Part):
    """``stages/<stage>/stage.yml``."""

    parent: Name | None = None
    roles: list[RolePart] = []
    variables: Variables = {}
    network: Literal["caches", "open"] = "caches"
    hosts: Annotated[list[Host], AfterValidator(_whole)] = []
    template: Template | None = None
    resources: StageResourcesPart = StageResourcesPart()
