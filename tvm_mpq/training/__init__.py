"""Lowered networks in PyTorch: the integers of `numerics` with gradients through them, and what is learned that way.

Needs the extra `torch`; other rooms import this one inside functions only.
"""
