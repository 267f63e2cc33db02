"""The rules that keep the driver readable, each as a test that names the lines that break it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# A module imports only from lines above its own. Modules of one line know nothing of each other; a
# package counts as one, and its modules may know each other as long as no cycle comes of it.
LAYERS = """
    errors suggest events in_guest on_host open_pins record role_names vm_options
    checks process files yamlfile values hcl ports
    partitions schema
    mount_points
    digest memo failures history libraries texts scratch network role_schema reference
    fetch
    patience config kernel template store disks caches monitor outcome
    rawdisk new_folder
    settings packer engines holdings sealing
    reasons resolve ssh kvm prune
    pipeline provision
    checkpoints
    inputs sources guest needs gateway
    compat
    verify
    plan gpu
    estimate
    live reporter provide
    supplies
    report
    stream timing project
    release packing installation upstream stage_network past
    workplace
    warm stage_build doctor new_project
    build shell watch prefetch
    inventory
    cli_options
    cli_cache cli_compat cli_gpu cli_host cli_init cli_desk cli_lock cli_plan
    cli_warm
    cli
    __main__
"""
# `in_guest` is sent to the guest and `on_host` to a GPU host; their stdout is how they answer.
PRINTING = {"cli", "report", "in_guest", "on_host"}
# Where `on_host` runs there is no builder/process.py.
STARTING = {"process", "on_host"}
MAX_FUNCTION = 60
MAX_FILE = 450
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
# How a program can be started past builder/process.py.
STARTERS = re.compile(
    r"os\.(fork\w*|exec[lv]\w*|spawn\w*|posix_spawnp?|system|popen)"
    r"|pty\.(spawn|fork)|asyncio\.create_subprocess_\w+"
)
PRINTERS = re.compile(r"print|click\.(echo|secho)|sys\.(stdout|stderr)\.\w+")
ENDERS = re.compile(r"sys\.exit|exit|quit|os\._exit|os\.abort")
# Hosts that packages come from: the project inherits them from the machine it runs on. Written in
# halves, so that this file is not its own finding.
_HOSTS_BY_DOMAIN = {
    "debian.org": "deb ftp security snapshot cloud cdimage",
    "ubuntu.com": "archive security ports releases cloud-images",
    "pythonhosted.org": "files",
    "org": "pypi",
    "nvidia.com": "pypi download",
    "pytorch.org": "download",
    "docker.io": "registry-1",
    "docker.com": "download",
    "npmjs.org": "registry",
    "golang.org": "proxy sum",
    "io": "crates",
    "ansible.com": "galaxy",
    "hashicorp.com": "releases",
}
HOSTS = [f"{name}.{domain}" for domain, names in _HOSTS_BY_DOMAIN.items() for name in names.split()]
# Variants that take a vendor's own packages must say where they are: these hosts, in these files.
_PUBLIC = {
    f"{name}.{domain}"
    for domain, names in {
        "ubuntu.com": "archive security releases cloud-images",
        "nvidia.com": "download",
        "docker.com": "download",
    }.items()
    for name in names.split()
}
_NAMED_IN = {"stages/pipeline.yml": _PUBLIC, "docs/ubuntu.md": _PUBLIC}
# Folders of the machines that this was written on.
FOLDERS = re.compile(r"(?<![\w.})])/(work|tmp/v" + r"b)(?![\w-])")
CLOCKS = re.compile(r"elapsed|duration|seconds|\btook\b|perf_counter|monotonic|time\.time")


# --- imports --------------------------------------------------------------------------------------


def test_each_module_has_its_layer(builder_modules):
    units = {_unit(module.name) for module in builder_modules} - {""}
    unknown, gone = sorted(units - set(_layers())), sorted(set(_layers()) - units)
    assert not unknown, f"say in LAYERS of {__file__} where these stand: {unknown}"
    assert not gone, f"strike these out of LAYERS of {__file__}: {gone}"


def test_modules_import_only_what_stands_above_them(builder_modules):
    layers = _layers()
    wrong = [
        f"{module.place(node)}: {_unit(module.name)} imports {_unit(name)}"
        for module in builder_modules
        for node, name in _own_imports(module, builder_modules)
        if (mine := _unit(module.name)) != (other := _unit(name))
        and layers.get(other, 0) >= layers.get(mine, 0)
        and other
    ]
    assert not wrong, _listed(wrong)


def test_no_imports_in_a_circle(builder_modules):
    graph = {
        module.name: {name for _, name in _own_imports(module, builder_modules)} - {module.name}
        for module in builder_modules
    }
    while leaves := {name for name, needs in graph.items() if not needs & set(graph)}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert not graph, f"these import each other, or one that does: {sorted(graph)}"


def test_only_process_starts_programs(builder_modules):
    wrong = [
        f"{module.place(node)}: {word}"
        for module in builder_modules
        if module.name not in STARTING
        for node, word in [*_imports(module), *_calls(module)]
        if word.split(".")[0] in {"subprocess", "multiprocessing"} or STARTERS.fullmatch(word)
    ]
    assert not wrong, _listed(wrong)


# --- what a module may do -------------------------------------------------------------------------


def test_only_cli_and_report_print(builder_modules):
    wrong = [
        f"{module.place(node)}: {call}"
        for module in builder_modules
        if module.name not in PRINTING
        for node, call in _calls(module)
        if PRINTERS.fullmatch(call)
    ]
    assert not wrong, _listed(wrong)


def test_only_cli_exits(builder_modules):
    wrong = [
        f"{module.place(node)}: {word}"
        for module in builder_modules
        if module.name != "cli"
        for node, word in [*_calls(module), *_raised(module)]
        if ENDERS.fullmatch(word) or word == "raise SystemExit"
    ]
    assert not wrong, _listed(wrong)


# --- names and sizes ------------------------------------------------------------------------------


def test_no_module_without_a_subject(modules):
    wrong = [
        str(module.path)
        for module in modules
        if EMPTY_NAMES & set(module.path.with_suffix("").parts)
    ]
    assert not wrong, _listed(wrong)


def test_data_folders_are_no_packages(files):
    wrong = [
        str(path)
        for path in files
        if path.name == "__init__.py" and path.parts[0] in {"ansible", "packer", "stages"}
    ]
    assert not wrong, _listed(wrong)


def test_functions_fit_on_a_screen(modules):
    wrong = [
        f"{module.place(node)}: {node.name} has {length} lines"
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION
    ]
    assert not wrong, _listed(wrong)


def test_files_can_be_read_in_one_go(modules):
    wrong = [f"{m.path}: {m.lines} lines" for m in modules if m.lines > MAX_FILE]
    assert not wrong, _listed(wrong)


def test_each_module_of_the_driver_says_why_it_exists(builder_modules):
    wrong = [str(module.path) for module in builder_modules if not ast.get_docstring(module.tree)]
    assert not wrong, _listed(wrong)


# --- tests ----------------------------------------------------------------------------------------


def test_nothing_is_patched(test_modules):
    """A seam is an object, a program on PATH or a tree; environment variables may be set."""
    patches = re.compile(r"monkeypatch\.(setattr|delattr|setitem|delitem)|mocker\..*")
    wrong = [
        f"{module.place(node)}: {word}"
        for module in test_modules
        for node, word in [*_imports(module), *_calls(module)]
        if patches.fullmatch(word) or re.match(r"(unittest\.)?mock\b", word)
    ]
    assert not wrong, _listed(wrong)


def test_no_test_fails_because_the_machine_is_slow(test_modules):
    """Speed is measured in bench/, as ratios; an upper limit in a test fails on a busy day."""
    wrong = [
        f"{module.place(node)}: {ast.unparse(node.test)}"
        for module in test_modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Assert)
        and any(_limits_time(part) for part in ast.walk(node.test) if isinstance(part, ast.Compare))
    ]
    assert not wrong, _listed(wrong)


# --- words ----------------------------------------------------------------------------------------


def test_no_host_of_packages_is_named(files, root):
    pattern = re.compile(r"(?<![\w-])(" + "|".join(map(re.escape, HOSTS)) + r")(?![\w-])")
    found = [line.split(":", 2) for line in _matches(files, root, pattern)]
    wrong = [
        f"{path}:{number}:{host}"
        for path, number, host in found
        if host.strip() not in _NAMED_IN.get(path, ())
    ]
    assert not wrong, _listed(wrong)
    # An exception that nobody needs is none.
    named = {(path, host.strip()) for path, _, host in found}
    assert {path for path, _ in named} == set(_NAMED_IN)


def test_no_folder_of_a_machine_is_named(files, root):
    assert not (wrong := list(_matches(files, root, FOLDERS))), _listed(wrong)


# --- how the rules look ---------------------------------------------------------------------------


def _layers() -> dict[str, int]:
    lines = LAYERS.strip().splitlines()
    return {unit: number for number, line in enumerate(lines) for unit in line.split()}


def _unit(name: str) -> str:
    return name.partition(".")[0]


def _imports(module) -> Iterator[tuple[ast.AST, str]]:
    """Yield what is imported anywhere in a module: on top, late, or for the type checker only."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module.place(node)}: a relative import"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def _own_imports(module, builder_modules) -> Iterator[tuple[ast.AST, str]]:
    """Yield the modules of the driver that a module imports, named without ``builder``."""
    names = {each.name for each in builder_modules}
    for node, word in _imports(module):
        package, _, name = word.partition(".")
        if package == "builder":
            # `from builder.store import Store` names a thing in a module, not a module.
            yield node, name if name in names else name.rpartition(".")[0]


def _calls(module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def _raised(module) -> Iterator[tuple[ast.AST, str]]:
    """Yield what a module raises, but for the last word of a program, under its ``__main__``."""
    allowed = {
        id(part)
        for node in module.tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        for part in ast.walk(node)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Raise) and node.exc and id(node) not in allowed:
            yield node, "raise " + ast.unparse(node.exc).partition("(")[0]


def _limits_time(compare: ast.Compare) -> bool:
    """Whether a comparison sets an upper limit to a time."""
    sides = [compare.left, *compare.comparators]
    for left, operator, right in zip(sides, compare.ops, sides[1:], strict=False):
        smaller = left if isinstance(operator, ast.Lt | ast.LtE) else None
        smaller = right if isinstance(operator, ast.Gt | ast.GtE) else smaller
        if smaller is not None and CLOCKS.search(ast.unparse(smaller)):
            return True
    return False


def _matches(files: tuple[Path, ...], root: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    for path in files:
        try:
            text = (root / path).read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for found in pattern.finditer(line):
                yield f"{path}:{number}: {found.group()}"


def _listed(lines: list[str]) -> str:
    return "\n  " + "\n  ".join(lines)
