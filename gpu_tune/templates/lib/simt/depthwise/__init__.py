"""Depthwise convolution on the plain arithmetic units: a thread slides input rows through its registers."""
