"""Functions in, shared libraries out."""
