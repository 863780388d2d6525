"""Models judge models: a pool of replies, ratings by a judge, and examples made of them.

Imports app.commands, app.simulation, trainer and storage; talks to OpenAI-compatible servers over HTTP.
Begin with `pool.py` and `judge.py`; `work.py` asks many things at once, trainer.judge one of them.
"""
