"""The gate: measures a candidate and the deployed version the same way and decides whether to deploy.

Imports storage, trainer.dataset, trainer.engine, trainer.judge, trainer.model and trainer.taste.
Begin with `decision.py`.
"""
