"""The host side of the kernel families: what they share, one folder for each kind of kernel, as in ``parts/``."""
