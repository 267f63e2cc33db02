"""From an image to what ships: made flat, looked at, searched, booted twice, described.

``publish`` makes it; ``inspection``, ``hygiene`` (with ``esp``) and ``leaks`` look at the file that
ships, ``clones`` boots it.
"""
