"""Benchmarks, run by `make bench`: JSON out, nothing asserted (docs/benchmarks.md)."""
