"""β, loss and learning rate, tried on one's own feedback.

Imports trainer.offline, trainer.gate and trainer.engine. Begin with `sweep.py`.
"""
