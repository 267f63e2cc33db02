#!/usr/bin/env bash
# Bring this machine to where vaultbuild, or its tests, can run. Safe, and quick, to run again.
#
#   tools/setup.sh image    what a build needs
#   tools/setup.sh test     that, and what the tests need
#
# System packages come from the machine's own apt, and only those that are missing. Python packages
# go to .venv, exactly as requirements.lock has them. Everything said goes to stderr: the stdout of
# `make image` is the path of the release and nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
exec >&2

# What must be here, and the package of Debian that brings it. A path must exist, any other word is
# a program on PATH: whoever installed it in another way is not given a second one.
image_needs=(
    packer:packer
    qemu-system-x86_64:qemu-system-x86
    qemu-img:qemu-utils
    qemu-storage-daemon:qemu-system-common
    fusermount3:fuse3
    /usr/share/OVMF/OVMF_CODE_4M.fd:ovmf
    mmdebstrap:mmdebstrap
    /usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
    gpgv:gpgv
    systemd-nspawn:systemd-container
    apt-cacher-ng:apt-cacher-ng
    socat:socat
    mformat:mtools
    mkfs.vfat:dosfstools
    mkfs.ext4:e2fsprogs
    sfdisk:fdisk
    losetup:mount
    ip:iproute2
    setpriv:util-linux
    unshare:util-linux
    ssh:openssh-client
    xorriso:xorriso
    zstd:zstd
    /etc/ssl/certs/ca-certificates.crt:ca-certificates
)
test_needs=(
    git:git
    shellcheck:shellcheck
    sshd:openssh-server
    gpg:gpg
    gpg-agent:gpg-agent
)
# Packages that start a server when they are installed. vaultbuild starts its own, on loopback; on
# a user's machine no port may open because of us.
declare -A service_of=([apt-cacher-ng]=apt-cacher-ng [openssh-server]=ssh)

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$1"
    [ $# -lt 2 ] || printf ' hint: %s\n' "$2"
    exit 3
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo --preserve-env=http_proxy,https_proxy,no_proxy "$@"
    else
        die "this needs root, and there is no sudo: $*" "run this command as root"
    fi
}

# --- system packages -------------------------------------------------------------------------

# The first Python on PATH that is new enough and can make virtual environments.
find_python() {
    local name
    for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
        then
            command -v "$name"
            return
        fi
    done
    return 1
}

is_here() {
    case $1 in
        # Where these files lie is known of Debian and its children only.
        /*) [ -e "$1" ] || ! command -v apt-get >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# Fills `missing` with the things that are not here and `packages` with what brings them.
look_around() {
    local need
    missing=()
    packages=()
    for need in "$@"; do
        is_here "${need%:*}" && continue
        missing+=("${need%:*}")
        case " ${packages[*]} " in
            *" ${need#*:} "*) ;;
            *) packages+=("${need#*:}") ;;
        esac
    done
    if ! find_python >/dev/null; then
        missing+=("Python 3.11 or later with venv")
        packages+=(python3-venv)
    fi
}

no_packer() {
    say "the package manager of this system has no Packer; Debian 12 is the last Debian that does."
    say "These lines install it (docs/install-packer.md says more); then run the same command again:"
    printf '\n'
    awk '/^```/ { if (inside) exit; inside = 1; next } inside { print "    " $0 }' \
        docs/install-packer.md
    printf '\n'
    die "packer is missing, and the package manager has none" "install Packer as shown above"
}

require_candidates() {
    local package unknown=()
    for package in "$@"; do
        # Not grep -q: it would end first, and the pipe would fail for apt-cache's broken one.
        LC_ALL=C apt-cache policy "$package" | grep 'Candidate: [^(]' >/dev/null ||
            unknown+=("$package")
    done
    case " ${unknown[*]} " in
        "  ") ;;
        *" packer "*) no_packer ;;
        *)
            die "apt knows no package named ${unknown[*]}" \
                "which components do the files in /etc/apt name? main (on Ubuntu: and universe) is needed"
            ;;
    esac
}

policy=/usr/sbin/policy-rc.d
policy_mark="# written by the set-up of vaultbuild, for the time of one installation"

forget_policy() {
    if grep -qsF "$policy_mark" "$policy"; then as_root rm -f "$policy"; fi
}

# Debian asks this file before a package starts its service; 101 means no.
deny_services() {
    [ -e "$policy" ] && return
    trap forget_policy EXIT
    as_root tee "$policy" >/dev/null <<POLICY
#!/bin/sh
$policy_mark
case \$1 in apt-cacher-ng* | ssh | ssh.*) exit 101 ;; esac
POLICY
    as_root chmod 755 "$policy"
}

# Not started now is not enough: what is enabled starts at the next boot.
disable_services() {
    local package service unit now=()
    [ -d /run/systemd/system ] && now=(--now)
    for package in "$@"; do
        service=${service_of[$package]:-}
        [ -n "$service" ] || continue
        if command -v systemctl >/dev/null; then
            # Ubuntu starts sshd through a socket.
            for unit in "$service.service" "$service.socket"; do
                [ ! -e "/lib/systemd/system/$unit" ] || as_root systemctl disable "${now[@]}" "$unit"
            done
        else
            as_root update-rc.d "$service" disable
        fi
        say "$package is installed; its service stays off"
    done
}

install_packages() {
    say "installing ${packages[*]}"
    as_root apt-get update -q -o DPkg::Lock::Timeout=300 ||
        die "apt-get update failed" "read its message above; is the network there?"
    require_candidates "${packages[@]}"
    deny_services
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "${packages[@]}" ||
        die "apt-get could not install ${packages[*]}" "read its message above"
    disable_services "${packages[@]}"
    forget_policy
}

require_system() {
    look_around "$@"
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || cannot_install
    install_packages
    look_around "$@"
    [ ${#missing[@]} = 0 ] || die "still missing after the installation: ${missing[*]}"
}

cannot_install() {
    say "this system has no apt, and these are missing: ${missing[*]}"
    [ "${missing[*]}" != packer ] || no_packer
    die "set-up needs apt" \
        "install them with your package manager (Packer: docs/install-packer.md), then run this again"
}

# --- Python packages -------------------------------------------------------------------------

# Settings of the person who calls must not bend the environment: where pip installs to, and
# whether byte code is written, which is a third of the start-up time of each command.
pip() {
    env -u PIP_USER -u PIP_TARGET -u PIP_PREFIX -u PIP_REQUIRE_VIRTUALENV -u PYTHONPATH \
        -u PYTHONDONTWRITEBYTECODE \
        .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"
}

# `stamped NAME VALUE`: was the step NAME completed for this very value?
stamped() { [ "$(cat ".venv/.$1" 2>/dev/null)" = "$2" ]; }

# A moved folder or an upgraded Python breaks a virtual environment: both are in the digest.
digest_of() { { cat "$@" && pwd && readlink -f .venv/bin/python; } | sha256sum; }

make_venv() {
    if [ -x .venv/bin/python ] && stamped locked "$(digest_of requirements.lock)"; then return; fi
    say "making .venv from requirements.lock"
    "$(find_python)" -m venv --clear .venv
    pip install --require-hashes --only-binary :all: --requirement requirements.lock ||
        die "pip could not install requirements.lock" "read its message above"
    digest_of requirements.lock >.venv/.locked
}

install_project() {
    if stamped project "$(digest_of requirements.lock pyproject.toml)"; then return; fi
    # The compat mode writes a plain path; the default mode puts an import hook before each start.
    pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable . ||
        die "pip could not install this project into .venv" "read its message above"
    env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m compileall -q builder
    digest_of requirements.lock pyproject.toml >.venv/.project
}

main() {
    case ${1:-} in
        image) require_system "${image_needs[@]}" ;;
        test) require_system "${image_needs[@]}" "${test_needs[@]}" ;;
        *) die "usage: tools/setup.sh image|test" ;;
    esac
    exec 9<requirements.lock
    flock 9 # two calls at once make one .venv
    make_venv
    install_project
}

main "$@"
