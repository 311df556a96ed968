"""Text of float kernels, for those that are still written as text."""
