"""Times that may be compared, and the check that a kernel computes what it should."""
