"""Judge models on OpenAI-compatible servers: what they are asked, and how their answers are read.

Imports storage. Begin with `asking.py`; `servers.py` asks a server, `rubric.py` has the questions.
"""
