"""The base model: finds it, loads it, and measures the memory left for it.

Imports storage only. Begin with `base_model.py`.
"""
