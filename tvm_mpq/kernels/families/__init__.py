"""Rows of the kernel table: which machine, in which frame, for which operators and precisions."""
