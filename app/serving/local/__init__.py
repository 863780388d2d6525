"""The in-process backend: transformers, one slot per model version, an engine in each.

Imports app.serving and trainer.model. Begin with `backend.py`.
"""
