"""Turns examples into tokenised rows: selection, guard, hold-out split, weights and order.

Imports storage, and nothing of the trainer but `trainer/text.py`. Begin with `tokenise.py`, then `split.py`.
"""
