"""Adapters as artifacts: what is trained of a model, what it starts from, what its folder says.

Imports trainer.model and trainer.engine. Begin with `tuning_modes.py`.
"""
