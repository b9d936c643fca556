"""Benchmarks and long checks: ``python -m bench.NAME --help``."""
