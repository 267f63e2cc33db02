#!/usr/bin/env bash
# Build a current Packer and its qemu plugin from their Go modules, and print the folder that holds
# `packer` and `plugins/`. Kept in the user's cache: minutes the first time, nothing afterwards.
#
# Exit status 77: this machine has no Go that can build it, or the modules cannot be fetched; the
# last line says which. Go is no requirement of vaultbuild, so the tests skip then.
set -euo pipefail

packer_version=1.16.0
plugin_version=1.0.9
# Packer's own module says so as well, and replacements count in the main module alone.
cty="github.com/zclconf/go-cty => github.com/nywilken/go-cty v1.13.3"

cache=${XDG_CACHE_HOME:-${HOME:?}/.cache}/vaultbuild
place=$cache/packer-$packer_version-qemu-$plugin_version

skip() {
    printf '%s\n' "$*"
    exit 77
}

# build NAME VERSION: build the program of module hashicorp/NAME into $scratch/NAME.
build() {
    local module=github.com/hashicorp/$1
    mkdir "$scratch/$1.build"
    cd "$scratch/$1.build"
    # A module of our own, because `go install MODULE@VERSION` refuses modules with replacements.
    # It says `go`, else Go would fetch the whole history of requirements, for minutes.
    printf '%s\n' "module build" "go 1.25" "require $module v$2" "replace $cty" >go.mod
    go list -mod=mod -deps "$module" >/dev/null 2>"$scratch/fetch.log" ||
        skip "Go cannot fetch $module: $(tail -n 1 "$scratch/fetch.log")"
    nice go build -mod=mod -trimpath -o "$scratch/$1" "$module" >&2
}

if [ -x "$place/packer" ]; then
    printf '%s\n' "$place"
    exit
fi
PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || skip "Go is not installed: no current Packer is built"
# The Go that is here, not one that it would download; and no flags of another project.
export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOWORK=off

mkdir -p "$cache"
exec 9>"$place.lock"
flock 9
if [ ! -x "$place/packer" ]; then
    rm -rf "$place".?????? # of a run that was killed
    scratch=$(mktemp -d "$place.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    build packer "$packer_version"
    build packer-plugin-qemu "$plugin_version"
    cd "$scratch"
    # As a user without internet does it; see docs/install-packer.md.
    CHECKPOINT_DISABLE=1 PACKER_PLUGIN_PATH=$scratch/plugins \
        ./packer plugins install --path packer-plugin-qemu github.com/hashicorp/qemu >&2
    rm -rf ./*.build packer-plugin-qemu fetch.log
    mv -T "$scratch" "$place"
fi
printf '%s\n' "$place"
