"""Proving templates and emitted kernels on the emulator, without a GPU."""
