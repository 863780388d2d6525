"""What was trained and what is served: runs, versions, deployments, canaries, adapters and their store.

May import storage.errors, .files, .settings and .db. Begin with `model_versions.py`; `training_runs.py` is
the queue.
"""
