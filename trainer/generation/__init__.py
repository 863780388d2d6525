"""Generation: engines that turn prompts into tokens, for the server and for the gate.

Imports trainer.engine.fast and storage. Begin with `engine.py`.
"""
