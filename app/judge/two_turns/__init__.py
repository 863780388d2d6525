"""Two-turn evaluation: each version answers questions of two turns, and a judge scores both turns.

Imports app.judge, app.commands, trainer.judge and storage.
Begin with `evaluation.py`; `command.py` is `thumbloop evaluate`.
"""
