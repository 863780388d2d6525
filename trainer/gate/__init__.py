"""May a candidate be deployed? Measure it and the deployed version alike, then decide.

Imports trainer.engine and trainer.dataset. Begin with `decision.py`.
"""
