"""Kernel families: one ``.cu.j2`` and the declaration beside it. ``parts/`` and ``lib/`` are what they share."""
