"""One SQLite file: latencies by kernel and device, whole-network runs, and other results worth keeping."""
