"""Which versions go together, as data and rules, and what follows for a variant or an image.

::

    stages/compatibility.yml ── table ─┐
    variables, lock files ───── stack ─┼─► rules ──► findings ──► plan, doctor, compat
    packages of an image ────── stack ─┘              answers ──► "which driver for B200?"

A project without the file is not judged.
"""

PATH = "stages/compatibility.yml"
