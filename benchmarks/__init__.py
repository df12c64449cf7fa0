"""Throughput as ratios in one run, and memory: `python -m benchmarks consume`."""
