"""From votes to a judged model version: examples, KTO training, evaluation and the gate.

Knows models and the database; knows no HTTP. Serving imports the base model and the tokenizer from
here, so that both sides see the same ids.
"""

import os

# TRL and huggingface_hub report what is trained and on which device unless they are told not to, before
# their first import. What people say to Thumbloop, and that they use it, stays on their machine.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# See app/__init__.py; a trainer that is started by hand does not import that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
