"""The host side of the kernel families: what they share, one folder a kind of kernel."""
