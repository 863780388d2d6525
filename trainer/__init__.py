"""Turns votes into a judged model version: examples, KTO training, evaluation, the gate.

Imports storage and the model libraries, no web framework. The server imports the base model and the tokenizer
from here, so both sides see the same token ids. Begin with `runs/run.py`.
"""

import os

# TRL and huggingface_hub report what is trained, and on which device, unless this is set before they are
# first imported. What people write, and the fact that they use Thumbloop, stay on their machine.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# See app/__init__.py, which a trainer started by hand does not import.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
