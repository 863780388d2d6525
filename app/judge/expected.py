"""How much a bootstrap will ask, before it is asked: calls, tokens, cost and time. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.judge.specs import ServerSpec


@dataclass(frozen=True)
class Share:
    """Calls of one server, each with about as many tokens in and out."""

    spec: ServerSpec
    calls: int
    tokens_in: float
    tokens_out: float

    @property
    def cost(self) -> float:
        """0 for a server without a price."""
        return self.spec.cost(round(self.calls * self.tokens_in), round(self.calls * self.tokens_out)) or 0.0

    @property
    def seconds(self) -> float:
        return self.calls * self.spec.seconds / self.spec.at_once


@dataclass(frozen=True)
class Expected:
    """Stages, one after the other; the servers of a stage are asked at the same time."""

    stages: Sequence[Sequence[Share]]

    @property
    def shares(self) -> list[Share]:
        return [share for stage in self.stages for share in stage]

    @property
    def calls(self) -> int:
        return sum(share.calls for share in self.shares)

    @property
    def tokens(self) -> int:
        return round(sum(share.calls * (share.tokens_in + share.tokens_out) for share in self.shares))

    @property
    def cost(self) -> float | None:
        """None if no server has a price."""
        priced = [share.cost for share in self.shares if share.spec.price is not None]
        return sum(priced) if priced else None

    @property
    def seconds(self) -> float:
        """Own versions share one server, so theirs add up."""
        return sum(
            max([sum(one.seconds for one in stage if one.spec.own), *(one.seconds for one in stage)])
            for stage in self.stages
        )
