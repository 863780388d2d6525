"""Training with several processes: how many, how they start, and how they end.

Imports trainer.engine. Begin with `launcher.py`.
"""
