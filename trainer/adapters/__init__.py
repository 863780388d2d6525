"""Adapters as artifacts: what is trained, what training starts from, and what the adapter's folder says.

Imports storage, trainer.dataset, trainer.engine and trainer.model. Begin with `tuning_modes.py`.
"""
