"""Simulated people who chat with a server and vote by a hidden taste, to see whether the model learns it.

Imports app.commands, trainer and storage; talks to a server of its own over HTTP.
Begin with `simulation.py`; `command.py` is `thumbloop simulate`. `demo.py` fills a store with a month.
"""
