"""Instruction sets: what one machine contributes to a frame, one file each."""
