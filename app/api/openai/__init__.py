"""/v1, as OpenAI's clients expect it.

Begin with `routes.py`.
"""
