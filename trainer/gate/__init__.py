"""The gate: measures a candidate and the deployed version the same way and decides whether to deploy.

Imports storage, trainer.dataset, trainer.engine, trainer.generation, trainer.judge and trainer.model.
Begin with `decision.py`.
"""
