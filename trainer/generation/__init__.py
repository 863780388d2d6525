"""Generation: engines that turn prompts into tokens, for the server and for the gate.

Imports no other package. Begin with `engine.py`.
"""
