"""Trains KTO on given rows, with the exact shared-prefix engine or with stock TRL.

Imports storage, trainer.errors, trainer.dataset and trainer.model. Begin with `kto.py`.
"""
