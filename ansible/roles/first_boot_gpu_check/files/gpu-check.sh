#!/bin/sh
# Nothing is written beside the program: what is below /usr/local stays as it was installed.
PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 /usr/local/lib/gpu-check "$@"
