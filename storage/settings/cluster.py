"""What `THUMBLOOP_RAY` says of a Ray cluster, and of the jobs there."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from storage.settings.validators import Address

Amount = Annotated[float, Field(ge=0)]


class RayCluster(BaseModel):
    """A Ray cluster, and what a trainer's job asks for. One that asks for nothing is placed on the head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Address = "http://127.0.0.1:8265"  # of the dashboard, which serves the Jobs API
    workers: int = Field(1, ge=1)  # processes that train together, each with what follows
    num_cpus: Amount = 1
    num_gpus: Amount = 0
    memory_gb: Amount = 0
    resources: dict[str, Amount] = Field(default_factory=dict)
    runtime_env: dict[str, Any] = Field(default_factory=dict)  # Ray's: working_dir, pip, env_vars, …
    python: str = "python"  # the interpreter that has Thumbloop, on the machines of the cluster
