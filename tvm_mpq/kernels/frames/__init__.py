"""Loops: how a kernel walks over positions, channels and threads, whatever machine does the arithmetic."""
