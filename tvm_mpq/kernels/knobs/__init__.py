"""Knob spaces: the tiles and loop orders that are worth measuring, the likely best first."""
