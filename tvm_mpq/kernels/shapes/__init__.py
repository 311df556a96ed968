"""Loop extents of an operator: positions, channels, phases and tables, before any code is written or array packed."""
