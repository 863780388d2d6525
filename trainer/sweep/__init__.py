"""Sweeps: try β, loss and learning rate on your own feedback, and rank the results.

Imports storage and every trainer package except launch and runs. Begin with `sweep.py`.
"""
