#!/usr/bin/env bash
# Write requirements.lock anew from pyproject.toml: every version exact, every file with its hash,
# for each Python that the project supports. Arguments go to the resolver, such as --upgrade.
#
# The resolver lives in a throwaway environment: it has no place in the one that it describes.
set -euo pipefail
cd "$(dirname "$0")/.."

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet uv

# setuptools builds the project itself, with --no-build-isolation: so it is locked like the rest.
echo 'setuptools>=77' | "$tmp/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 \
    --extra dev --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make lock' \
    --output-file requirements.lock "$@" pyproject.toml -
