"""What may stand in each kind of file of a project.

One pydantic model per kind of file; the kinds of values are in :mod:`builder.values`. Models judge
a file by itself; how files fit together is judged in :mod:`builder.resolve`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from builder.role_names import called
from builder.suggest import suggestion
from builder.values import (
    GIB,
    Age,
    AptSource,
    Cpus,
    Duration,
    Exact,
    Host,
    HttpUrl,
    InIso,
    KernelRelease,
    Listen,
    Location,
    Mirror,
    Name,
    Names,
    Package,
    Prefix,
    RoleName,
    Sha256,
    Size,
    Suite,
    Template,
    Variables,
    Version,
    WrongValueError,
    shown,
    whole,
)


class Part(BaseModel):
    """A mapping in a file: its keys are fixed and its values have the type that is written."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResourcesPart(Part):
    """What a guest gets, and the size of the disk that the root stage makes."""

    cpus: Cpus = 2
    memory: Size = 4 * GIB
    disk: Size = 8 * GIB


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


class KernelPart(Part):
    """The one kernel of a root; its flavour is the variant's to choose."""

    release: KernelRelease
    version: Exact


class BootstrapPart(Part):
    """A root filesystem made of packages."""

    suite: Suite
    components: Names = ["main"]
    mirrors: list[AptSource] | None = None
    kernel: KernelPart | None = None
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

    @model_validator(mode="after")
    def _one_kernel(self) -> BootstrapPart:
        for package in self.packages if self.kernel else ():
            if package.startswith(("linux-image-", "linux-headers-")):
                message = f"{shown(package)} stands beside the pin of a kernel"
                raise WrongValueError(message, "remove one of them")
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
    hosts: Annotated[list[Host], AfterValidator(whole)] | None = None


Rule = Literal[
    "driver-end", "driver-missing", "driver-module", "one-module", "kernel-module",
    "fabric-version", "fabric-platform", "gpu-known", "gpu-driver", "gpu-module", "gpu-cuda",
    "cuda-driver", "cudnn", "one-cuda", "framework-known", "framework-python", "framework-needs",
]  # fmt: skip
"""The rules of :mod:`builder.compat.rules`."""


class VariantPart(Part):
    """One named choice of distribution, kernel, driver and frameworks.

    ``accept``: rules of what goes together that this variant need not keep.
    """

    description: str = ""
    source: SourcePart
    kernel_flavour: Literal["cloud", "generic"] = "cloud"
    resources: VariantResourcesPart = VariantResourcesPart()
    variables: Variables = {}
    accept: list[Rule] = []
    stages: dict[str, OverridePart] = {}

    @model_validator(mode="after")
    def _a_flavour_of_something(self) -> VariantPart:
        pinned = self.source.bootstrap and self.source.bootstrap.kernel
        if "kernel_flavour" in self.model_fields_set and not pinned:
            message = "has a kernel_flavour, and its source pins no kernel"
            raise WrongValueError(message, "pin one: source: {bootstrap: {kernel: ...}}")
        return self


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
    hosts: Annotated[list[Host], AfterValidator(whole)] = []
    template: Template | None = None
    resources: StageResourcesPart = StageResourcesPart()
