"""In a job of Ray: `python -m trainer.runs.ray_workers PLAN run ID …` is the first of several trainers.

The others are tasks of Ray, on whatever machines have room. They get the environment that torchrun would give
them, and end with the job.
"""

import json
import os
import runpy
import socket
import sys
from contextlib import suppress

import ray
from ray.util import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def main() -> None:
    """PLAN is JSON: how many `workers` there are, the `bundle` each other one takes, `seconds` to wait."""
    plan, words = json.loads(sys.argv[1]), sys.argv[2:]
    ray.init(runtime_env={"py_executable": sys.executable})
    others = plan["workers"] - 1
    placement = placement_group([plan["bundle"]] * others, strategy="SPREAD")
    if not placement.wait(plan["seconds"]):
        sys.exit(f"The cluster had no room for {others} more trainers, each with {plan['bundle']}.")
    with socket.socket() as free:
        free.bind(("", 0))
        address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        rendezvous = {"MASTER_ADDR": address, "MASTER_PORT": str(free.getsockname()[1])}
    group = rendezvous | {"WORLD_SIZE": str(plan["workers"]), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    asked = dict(plan["bundle"])
    follower = ray.remote(_follow).options(
        num_cpus=asked.pop("CPU", 0),
        num_gpus=asked.pop("GPU", 0),
        memory=asked.pop("memory", None),
        resources=asked,
        max_retries=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(placement),
    )
    for rank in range(1, plan["workers"]):
        follower.remote(group | {"RANK": str(rank)}, words)
    _train(group | {"RANK": "0"}, words)


def _follow(group: dict[str, str], words: list[str]) -> None:
    with suppress(SystemExit):
        _train(group, words)


def _train(group: dict[str, str], words: list[str]) -> None:
    """Be `python -m trainer`, in this process: what Ray sends to it or ends is the trainer itself."""
    os.environ |= group
    sys.argv = ["trainer", *words]
    runpy.run_module("trainer", run_name="__main__")


if __name__ == "__main__":
    main()
