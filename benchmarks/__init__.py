"""Throughput, measured as ratios in one run: `python -m benchmarks consume`."""
