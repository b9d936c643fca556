"""The gradients of a convolution as products on the plain arithmetic units: operands are gathered as they are read."""
