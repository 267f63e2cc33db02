"""The one place that starts programs.

Every program gets a list for arguments, an environment built from nothing, no terminal, and a
session of its own, so that Ctrl-C reaches vaultbuild first and the program when vaultbuild says
so. Every program dies with vaultbuild, however vaultbuild dies (``setpriv --pdeathsig``), and with
``contained=True`` everything that the program started dies with it (a PID namespace).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from builder.errors import CommandError, HostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

_log = logging.getLogger(__name__)

# How a host reaches the outside is its own affair and must be passed on; nothing else is.
_PASSED_ON = (
    "HOME", "PATH", "TERM", "TMPDIR", "USER",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
_TAIL_LINES = 20
_running: set[Child] = set()
# The package of Debian that brings a program.
_PACKAGES = {
    "apt-cacher-ng": "apt-cacher-ng",
    "blkid": "util-linux",
    "debugfs": "e2fsprogs",
    "dumpe2fs": "e2fsprogs",
    "e2fsck": "e2fsprogs",
    "fstrim": "util-linux",
    "ip": "iproute2",
    "losetup": "mount",
    "mcopy": "mtools",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmd": "mtools",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "packer": "packer",
    "qemu-img": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-system-x86_64": "qemu-system-x86",
    "resize2fs": "e2fsprogs",
    "setpriv": "util-linux",
    "setsid": "util-linux",
    "sfdisk": "fdisk",
    "socat": "socat",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "xorriso": "xorriso",
}
# Not every Debian has these.
_ELSEWHERE = {"packer": " (Debian 12), else see docs/install-packer.md"}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a program's environment: what leads this host to the outside, and ``extra``."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **passed, **(extra or {})}


def require(program: str) -> str:
    """Return the path of ``program``; raise :class:`HostError` that says how to install it."""
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if found := shutil.which(program, path=search):
        return found
    raise HostError(f"this host has no {program}", hint=how_to_install(program))


def how_to_install(*programs: str) -> str:
    """Return what to type to have ``programs``."""
    if not all(program in _PACKAGES for program in programs):
        return f"install {' '.join(programs)} and put it on PATH"
    packages = dict.fromkeys(_PACKAGES[program] for program in programs)
    notes = (_ELSEWHERE.get(program, "") for program in programs)
    return f"apt-get install {' '.join(packages)}{''.join(notes)}"


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program said and how it ended."""

    status: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    check: bool = True,
    timeout: float | None = None,
) -> Completed:
    """Run a program to its end and return what it said.

    Raises :class:`HostError` when there is no such program, :class:`CommandError` when it fails
    (unless ``check`` is false) or needs more than ``timeout`` seconds.
    """
    command = _mortal(argv)
    _log.debug("run: %s", shlex.join(str(word) for word in argv))
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment(env),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{argv[0]} did not end within {timeout:g} s") from error
    if check and done.returncode:
        raise failure(argv, done.returncode, done.stderr or done.stdout)
    return Completed(done.returncode, done.stdout, done.stderr)


def failure(
    argv: Sequence[str | Path], status: int, output: str, *, log: Path | None = None
) -> CommandError:
    """Return the error that tells how ``argv`` failed, with the last lines it wrote."""
    tail = "\n".join(f"       {line}" for line in output.strip().splitlines()[-_TAIL_LINES:])
    name = str(argv[0]).rsplit("/", 1)[-1]
    how = f"was killed by signal {-status}" if status < 0 else f"failed with status {status}"
    message = f"{name} {how}" + (f"\n{tail}" if tail else "")
    return CommandError(message, status=status, output=output, log=log)


@contextlib.contextmanager
def held(argv: Sequence[str | Path], *, said: str, patience: float) -> Iterator[None]:
    """Run the block while a program waits: after it said the line ``said``, until it hears one.

    Raises :class:`CommandError` when the line does not come in ``patience`` seconds, and after the
    block when the program does not end well.
    """
    popen = subprocess.Popen(
        _mortal(argv),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        first = b""
        if popen.stdout and select.select([popen.stdout.fileno()], [], [], patience)[0]:
            first = popen.stdout.readline()
        if first.decode().strip() != said:
            popen.kill()
            raise _ended(argv, popen, patience)
        yield
        _, errors = popen.communicate(b"\n", timeout=patience)
        if popen.returncode:
            raise failure(argv, popen.returncode, errors.decode(errors="replace"))
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{argv[0]} did not end within {patience:g} s") from error
    finally:
        popen.kill()
        popen.communicate()


def _ended(
    argv: Sequence[str | Path], popen: subprocess.Popen[bytes], patience: float
) -> Exception:
    _, errors = popen.communicate()
    told = errors.decode(errors="replace") or f"it said nothing for {patience:g} s"
    return failure(argv, popen.returncode, told)


def attach(argv: Sequence[str | Path]) -> int:
    """Run a program at this terminal, for a person; return its exit status."""
    _log.debug("attach: %s", shlex.join(str(word) for word in argv))
    return subprocess.call([require(str(argv[0])), *map(str, argv[1:])], env=environment())


def start_here(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> Child:
    """Start a program that writes to this terminal; a signal from there does not reach it."""
    popen = subprocess.Popen(
        _mortal(argv), env=environment(env), stdin=subprocess.DEVNULL, start_new_session=True
    )
    return Child(argv, popen, Path(os.devnull))


class Child:
    """A running program. Leaving its ``with`` block stops it."""

    def __init__(
        self, argv: Sequence[str | Path], popen: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.argv = argv
        self.log = log
        self._popen = popen
        _running.add(self)

    @property
    def pid(self) -> int:
        """The process id; also the id of its session."""
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._popen.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status; raise :class:`CommandError` after ``timeout`` seconds."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise CommandError(
                f"{self.argv[0]} did not end within {timeout:g} s", log=self.log
            ) from error

    def stop(self, signum: signal.Signals = signal.SIGTERM, *, grace: float = 30) -> int:
        """Ask the program to end, kill its session after ``grace`` seconds; return its status."""
        if self._popen.poll() is None:
            self.send(signum)
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                _log.warning("%s did not stop within %g s and was killed", self.argv[0], grace)
        # Also after an orderly end: what the program left behind in its session must not live on.
        self.send(signal.SIGKILL)
        status = self._popen.wait()
        _running.discard(self)
        return status

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the program and all that is in its session; return at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signum)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(
    argv: Sequence[str | Path],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    keep_fds: Sequence[int] = (),
    contained: bool = False,
) -> Child:
    """Start a program in the background; its output goes to the end of ``log``.

    ``keep_fds`` stay open in the program and what it starts: pass a lock's descriptor, and the lock
    is held until the last of them is gone. ``contained`` puts the program into a PID namespace of
    its own: when it dies, everything it started dies. Call from the main thread: the kernel counts
    the thread that started a program as its parent.
    """
    _log.debug("start: %s", shlex.join(str(word) for word in argv))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(str(word) for word in argv)}\n".encode())
        output.flush()
        popen = subprocess.Popen(
            _mortal(argv, contained=contained),
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=keep_fds,
            start_new_session=True,
        )
    return Child(argv, popen, log)


def kill_all() -> None:
    """Kill every program that is still running, and return at once.

    For a signal's handler, which may interrupt a wait for one of them: waiting a second time in the
    same thread would wait for the first wait's lock, for ever.
    """
    for child in tuple(_running):
        child.send(signal.SIGKILL)


def stop_all() -> None:
    """Kill every program that is still running; threads that wait for one then go on."""
    for child in tuple(_running):
        child.stop(signal.SIGKILL, grace=5)


@contextlib.contextmanager
def session(child: Child) -> Iterator[Child]:
    """Stop ``child`` at the end of the block, however the block ends."""
    try:
        yield child
    finally:
        child.stop()


def _mortal(argv: Sequence[str | Path], *, contained: bool = False) -> list[str]:
    """Wrap ``argv`` so that it cannot outlive this process."""
    program, *rest = (str(word) for word in argv)
    wrapped = [require("setpriv"), "--pdeathsig", "KILL"]
    if contained:
        wrapped += [
            require("unshare"),
            *_user_namespace(),
            "--pid",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ]
    return [*wrapped, require(program), *rest]


def _user_namespace() -> list[str]:
    return [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
