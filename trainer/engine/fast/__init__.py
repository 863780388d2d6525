"""CPU kernels: the same numbers up to rounding, with fewer copies and both cores at work.

Imports torch and transformers only. Begin with `layers.py`.
"""
