"""The in-process backend: transformers, with one slot and one engine per model version.

Imports app.serving, trainer.generation, trainer.model, trainer.engine.fast, trainer.dataset and storage.
Begin with `backend.py`.
"""
