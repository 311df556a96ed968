"""NumPy: weights and numbers of an operator to the constants that its kernel takes."""
