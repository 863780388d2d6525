"""KTO on given rows: the exact shared-prefix engine, and stock TRL beside it.

Imports trainer.dataset and trainer.model; knows no run and no gate. Begin with `kto.py`.
"""
