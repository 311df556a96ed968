"""Inference engines under one interface, each run in a process of its own (`worker`), spoken to through `child`."""
