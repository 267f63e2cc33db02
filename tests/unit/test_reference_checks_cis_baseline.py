"""The checks of the role cis_baseline, on answers of sound and of broken machines."""

# ruff: noqa: S108 - mount points, which nothing here writes to

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml

CHECKS = "ansible/roles/cis_baseline/checks/test_cis_baseline.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/cis_baseline"
MACHINE = "machine.py"
AUDITD = "1:4.0.2-2+deb13u1"
ABSENT = {"enabled": "not-found", "state": "inactive", "version": ""}
MODES = {
    "/etc/cron.d": "0o700",
    "/etc/cron.daily": "0o700",
    "/etc/group": "0o644",
    "/etc/gshadow": "0o640",
    "/etc/passwd": "0o644",
    "/etc/shadow": "0o640",
    "/etc/shells": "0o644",
}


def rendered(template, settings):
    text = (ROLE / "templates" / template).read_text()
    return jinja2.Template(text, trim_blocks=True).render(settings)


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    settings = defaults["cis_baseline_sysctl"]
    machine = {
        "auditd": ABSENT,
        "container": "none",
        "modes": {path: [mode, 0] for path, mode in MODES.items()},
        # modprobe writes names as the kernel does.
        "modprobe": rendered("modules.conf.j2", defaults).replace("-", "_").splitlines(),
        "mounts": {
            "/dev/shm": ["rw", "nosuid", "nodev", "inode64"],
            "/tmp": ["rw", "nosuid", "nodev", "size=2G"],
        },
        "sysctl": {name: str(value) for name, value in settings.items()},
        "sysctl_file": rendered("sysctl.conf.j2", defaults),
    }
    return {"expected": defaults, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


RANGE = "net.ipv4.ip_local_port_range"
AUDITED = {"expected": {"cis_baseline_auditd_version": AUDITD}}
RUNS = {"enabled": "enabled", "state": "active", "version": AUDITD}
SET, WRITTEN = "test_kernel_settings_are_in_force", "test_kernel_settings_are_written"
MODULES = "test_modules_are_not_loaded_by_anybody"
PRIVATE = "test_files_are_for_those_who_need_them"
SHARED = "test_shared_memory_has_no_devices_and_lends_no_rights"
TEMPORARY = "test_temporary_files_have_no_devices_and_lend_no_rights"
AUDITING = "test_auditing_is_on_where_it_was_asked_for"
# Case: (what is different, checks that are skipped).
SOUND = {
    "as built": ({},),
    "a setting of several values": (
        {"expected": {"cis_baseline_sysctl": (..., {RANGE: "32768 60999"})}}
        | told(sysctl=(..., {RANGE: "32768\t60999"}), sysctl_file=f"-{RANGE} = 32768 60999\n"),
    ),
    "in a container": (told(container="systemd-nspawn", sysctl={"fs.suid_dumpable": "2"}), SET),
    "a kernel without IPv6": (told(sysctl={"net.ipv6.conf.all.accept_redirects": None}),),
    "tuning has the last word": (
        {"expected": {"tuning_sysctl": {"net.ipv4.tcp_syncookies": 0}}}
        | told(sysctl={"net.ipv4.tcp_syncookies": "0"}),
    ),
    "/tmp on the root": (told(mounts={"/tmp": None}),),
    "audited": (AUDITED | told(auditd=RUNS),),
    "audited, in a container": (
        AUDITED | told(auditd=RUNS | {"state": "inactive"}, container="systemd-nspawn"),
        SET,
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "a setting is not in force": (told(sysctl={"fs.suid_dumpable": "2"}), SET),
    "one of a setting's values is not in force": (
        {"expected": {"cis_baseline_sysctl": (..., {RANGE: "32768 60999"})}}
        | told(sysctl=(..., {RANGE: "32768\t1"}), sysctl_file=f"-{RANGE} = 32768 60999\n"),
        SET,
    ),
    "no setting is known": (told(sysctl=(..., {"fs.suid_dumpable": None})), SET),
    "a setting is not written": (
        told(sysctl_file=("-fs.suid_dumpable = 0\n", "")),
        WRITTEN,
    ),
    "another setting is written": (
        told(sysctl_file=("-fs.suid_dumpable = 0", "-fs.suid_dumpable = 1")),
        WRITTEN,
    ),
    "a module may be loaded by itself": (told(modprobe=("blacklist usb_storage", None)), MODULES),
    "a module may be loaded by name": (told(modprobe=("install sctp /bin/false", None)), MODULES),
    "everybody may read cron's folder": (told(modes={"/etc/cron.d": ["0o755", 0]}), PRIVATE),
    "everybody may read the passwords": (told(modes={"/etc/shadow": ["0o644", 0]}), PRIVATE),
    "accounts belong to somebody": (told(modes={"/etc/passwd": ["0o644", 1000]}), PRIVATE),
    "there are no passwords": (told(modes=("/etc/shadow", None)), PRIVATE),
    "shared memory lends rights": (told(mounts={"/dev/shm": ("nosuid", None)}), SHARED),
    "shared memory cannot be run": (told(mounts={"/dev/shm": (None, "noexec")}), SHARED),
    "shared memory is not there": (told(mounts={"/dev/shm": None}), SHARED),
    "temporary files may be devices": (told(mounts={"/tmp": ("nodev", None)}), TEMPORARY),
    "not audited": (AUDITED, AUDITING),
    "audited, and stopped": (AUDITED | told(auditd=RUNS | {"state": "failed"}), AUDITING),
    "audited unasked": (told(auditd=RUNS), AUDITING),
    "nobody knows whether it is a container": (
        told(container=""), SET, AUDITING,
    ),
}  # fmt: skip
