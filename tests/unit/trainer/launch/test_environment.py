"""What a training process sets before it begins."""

import subprocess
import sys

COUNT = """
import resource, sys
from trainer.launch.environment import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
import torch
torch.set_num_threads(1)
for _ in range(3):
    torch.ones(2_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(40_000_000 // 4)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_the_kernel() -> None:
    faults = {
        kind: int(subprocess.check_output([sys.executable, "-c", COUNT, kind], text=True))
        for kind in ("kept", "usual")
    }
    assert faults["kept"] < faults["usual"] / 5, faults
