"""The base model: where it is, loading it, and what the machine has left for it.

Imports storage only. Begin with `base_model.py`.
"""
