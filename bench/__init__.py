"""Benchmarks: wsfast beside what the libraries offer, in the same run, every time with its error against float64."""
