"""Training runs: when one is requested, which process carries it out, and its steps in order.

Imports storage and every trainer package except offline and sweep. Begin with `run.py`.
"""
