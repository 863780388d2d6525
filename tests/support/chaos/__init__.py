"""A small machine on which everything fails in turn, and the people who use it meanwhile.

`python -m tests.support.chaos` is the program; read `__main__.py` first.
"""
