"""Log-probabilities with every shared prefix computed once, and KTO's loss on them.

Imports storage.examples, trainer.dataset and trainer.engine.fast. Begin with `passes.py` and `scorer.py`;
docs/engine.md explains the idea.
"""
