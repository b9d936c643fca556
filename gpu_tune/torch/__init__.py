"""gpu_tune in PyTorch: operators with gradients, modules, and whole models.

PyTorch is imported by this package alone, and only where it is asked for: ``import gpu_tune.torch``.
"""
