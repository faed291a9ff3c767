"""Benchmarks: published results reproduced with their protocol, and speed side by side."""
