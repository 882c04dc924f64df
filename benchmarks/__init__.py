"""Measurements, run by hand.

``python -m benchmarks`` (``make bench``) prints one table of speed and memory beside the machine's own limits and
PyTorch. By themselves run ``benchmarks.parity``, ``benchmarks.dicom`` and ``benchmarks.thin_slices``.
"""
