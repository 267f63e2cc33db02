"""Put parameters on the kernel's command line in GRUB's menu, and print each line that changed.

    cmdline.py MENU PARAMETER...

GRUB's own ``update-grub`` would name the loop device that a build works on as the root, so the menu
is edited instead. Parameters take the place of those of the same name. Run in the guest.
"""
# ruff: noqa: INP001, T201 - a program that is sent to the guest, not a module

import re
import sys
from pathlib import Path

_LINUX = re.compile(r"^(\s*linux(?:efi|16)?\s+)(\S.*?)\s*$")


def name_of(parameter: str) -> str:
    """Return what comes before the first ``=``."""
    return parameter.partition("=")[0]


def edited(line: str, parameters: list[str]) -> str:
    """Return a line of the menu with the parameters; a line that starts no kernel as it is."""
    found = _LINUX.match(line)
    if not found:
        return line
    names = {name_of(parameter) for parameter in parameters}
    image, *given = found[2].split()
    if [word for word in given if name_of(word) in names] == parameters:
        return line
    kept = [word for word in given if name_of(word) not in names]
    return found[1] + " ".join([image, *kept, *parameters])


def main(menu: Path, parameters: list[str]) -> None:
    """Edit the menu, in one step."""
    old = menu.read_text(encoding="utf-8").split("\n")
    new = [edited(line, parameters) for line in old]
    if new == old:
        return
    aside = menu.with_name(f"{menu.name}.new")
    aside.write_text("\n".join(new), encoding="utf-8")
    aside.chmod(menu.stat().st_mode & 0o777)
    aside.replace(menu)
    print("\n".join(after for before, after in zip(old, new, strict=True) if before != after))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
