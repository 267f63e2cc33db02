"""What may stand as a value in a project's files: one type per kind, with what to write instead."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from builder.open_pins import is_open

_SHOWN = 40
GIB = 2**30
_UNITS = {"M": 2**20, "G": GIB, "T": 2**40}


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


def whole(values: list[str]) -> list[str]:
    """Return a list as it is, if nothing is in it twice."""
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
Exact = Annotated[
    str,
    form(
        r"[0-9][0-9A-Za-z.+:~-]*",
        "is no version of a package",
        "write it as dpkg prints it, in quotes where it is a number",
    ),
]
KernelRelease = Annotated[
    str,
    form(
        r"[0-9]+\.[0-9]+[0-9A-Za-z.+~]*(-[0-9][0-9.]*)?",
        "is no release of a kernel without its flavour",
        "write what uname -r prints, without -cloud-amd64 or -amd64",
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
Names = Annotated[list[Name], AfterValidator(whole), Field(min_length=1)]
