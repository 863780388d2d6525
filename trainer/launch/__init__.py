"""Training with several processes: how many, how they start, and how they end.

Imports storage, trainer.errors and trainer.adapters, dataset, engine and model. Begin with `launcher.py`.
"""
