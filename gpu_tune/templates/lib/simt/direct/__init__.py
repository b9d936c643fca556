"""Direct convolution on the plain arithmetic units."""
