"""The gradients' references, and the vendor's path, against PyTorch's autograd on the CPU."""
