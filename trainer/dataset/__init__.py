"""From examples to tokenised rows: selection, split, weights, order.

Pure where possible; imports storage.examples and trainer.model. Begin with `tokenise.py`, then `split.py`.
"""
