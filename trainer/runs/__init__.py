"""Training runs: when one is requested, who carries it out, what happens in which order.

Imports all other packages of the trainer but sweep and offline. Begin with `run.py`.
"""
