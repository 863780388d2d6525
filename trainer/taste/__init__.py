"""The taste: what people like, learned from their votes, and replies sampled and scored by it.

Imports storage, trainer.dataset, trainer.engine, trainer.generation and trainer.model.
Begin with `taste.py`.
"""
