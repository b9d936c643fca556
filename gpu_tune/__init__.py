"""gpu_tune: a GPU kernel autotuner for CUDA matmul and conv2d."""

__version__ = "0.1.0"
