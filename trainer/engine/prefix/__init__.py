"""Log-probabilities with every shared beginning computed once, and KTO's loss on them.

Imports trainer.dataset. Begin with `passes.py` and `scorer.py`; docs/engine.md has the idea.
"""
