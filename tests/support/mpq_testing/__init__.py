"""What tests of several rooms share: small networks, the NumPy definition of a whole plan, and a process of its own."""
