"""Measurements, run by hand: ``python -m benchmarks.prediction`` and ``python -m benchmarks.parity``."""
