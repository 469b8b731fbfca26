"""Benchmarks: diffbench beside the public trainers, as ratios measured in one run. See README.md in this folder."""
