"""What was trained and what is served: runs, versions, deployments, canaries, adapter folders.

May import storage.errors, .files and .db. Begin with `model_versions.py`; `training_runs.py` is the queue.
"""
