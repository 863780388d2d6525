"""Decides the order in which rows are trained on, micro-batch by micro-batch. Pure; no torch.

KTO estimates its KL term by pairing each prompt with its neighbour's reply inside a micro-batch, so the order
of the rows is part of the objective, not a loading detail.
"""

import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample

# If the rows of some chat cannot be separated, the rows are shuffled again until this many rows have been
# shuffled in all. A small set may have few valid orders, and a large one has many.
MOST_SHUFFLED = 2000

# Blocks per window in which rows of similar length are brought together. A window is at most a quarter of the
# epoch, so that another shuffle combines other rows.
WINDOW = 32


class Ordered(Protocol):
    """The fields that the order depends on; trainer.dataset.tokenise.TokenisedExample has them."""

    @property
    def label(self) -> bool: ...
    @property
    def chat_id(self) -> str: ...
    @property
    def length(self) -> int: ...


def blocks(examples: Sequence[Ordered], *, batch_size: int, seed: int, epoch: int = 0) -> list[list[int]]:
    """The micro-batches of one epoch in order, as indices of `examples`.

    - The rarer label is spread evenly: every block has it if there are as many such rows as blocks.
    - Two rows of one chat are not neighbours in a block where that can be avoided, because neighbours
      are each other's mismatched pair. The last and the first row of a block count as neighbours.
    - Subject to that, rows of one chat share a block, the longest together and at most half a block, so
      that what they share is computed once. This does not change which labels a block has.
    - Subject to that, rows of similar length share a block: the shuffled rows are sorted by length in
      windows of a few blocks, and the blocks of a window are then shuffled.
    - No block has a single row, which would be its own pair. No row is dropped for this: where one row
      would remain, another row is repeated, so the last block has two. A single example has no order;
      the list is then empty.

    The same arguments give the same order on every machine. Each epoch has its own order, and its last block
    may be short.
    """
    assert batch_size >= 2
    if len(examples) < 2:
        return []
    draw = random.Random(f"{seed}:{epoch}")
    rare = 2 * sum(example.label for example in examples) <= len(examples)
    best, fewest = None, math.inf
    for _ in range(max(1, MOST_SHUFFLED // len(examples))):
        arrangement = _Arrangement(examples, _shuffled(examples, batch_size, rare, draw))
        crowded = arrangement.separate_chats(rare)
        if crowded < fewest:
            best, fewest = arrangement, crowded
        if not crowded:
            break
    assert best is not None
    best.gather_chats()
    return [_seated(examples, block, draw) for block in best.blocks]


def write_order(
    rows: Sequence[TokenisedExample], settings: Settings, file: Path, *, processes: int = 1
) -> None:
    """Write a JSON line per micro-batch: `epoch`, `step` and `micro_batch`, counted from 1, and `records`.

    Records are the names of examples: the position in a file, or a message id. Each prompt's mismatched reply
    is that of the record before it in its micro-batch; the first one's is that of the last. With several
    processes, each takes the next micro-batch in turn.
    """
    in_a_step = settings.gradient_accumulation * processes
    before = 0  # steps of the epochs before
    with file.open("w", encoding="utf-8") as lines:
        for epoch in range(math.ceil(settings.epochs)):
            micro_batches = blocks(rows, batch_size=settings.batch_size, seed=settings.seed, epoch=epoch)
            steps = math.ceil(len(micro_batches) / in_a_step)
            left = math.ceil(settings.epochs * steps) - before
            for number, block in enumerate(micro_batches[: left * in_a_step]):
                line = {
                    "epoch": epoch + 1,
                    "step": before + number // in_a_step + 1,
                    "micro_batch": number + 1,
                    "records": [rows[row].example.message_id for row in block],
                }
                lines.write(json.dumps(line) + "\n")
            before += steps


def _shuffled(
    examples: Sequence[Ordered], batch_size: int, rare: bool, draw: random.Random
) -> list[list[int]]:
    """Shuffle the rows into blocks, with the label `rare` spread evenly and similar lengths together."""
    rows = list(range(len(examples)))
    draw.shuffle(rows)
    sizes = [min(batch_size, len(rows) - start) for start in range(0, len(rows), batch_size)]
    rarer = [row for row in rows if examples[row].label == rare]
    others = [row for row in rows if examples[row].label != rare]
    rares = [0] * len(sizes)
    emptiest = [(0.0, draw.random(), number) for number in range(len(sizes))]
    heapq.heapify(emptiest)
    for _ in rarer:
        _, tie, number = emptiest[0]
        rares[number] += 1
        heapq.heapreplace(emptiest, (rares[number] / sizes[number], tie, number))
    blocks: list[list[int]] = [[] for _ in sizes]
    window = max(1, min(WINDOW, len(sizes) // 4))
    for start in range(0, len(sizes), window):
        numbers = list(range(start, min(start + window, len(sizes))))
        draw.shuffle(numbers)
        for kind, counts in ((rarer, rares), (others, [s - r for s, r in zip(sizes, rares, strict=True)])):
            here = [kind.pop() for _ in range(sum(counts[number] for number in numbers))]
            by_length = iter(sorted(here, key=lambda row: examples[row].length))
            for number in numbers:
                blocks[number] += islice(by_length, counts[number])
    if sizes[-1] == 1:
        alone = examples[blocks[-1][0]]
        of_chat = Counter(example.chat_id for example in examples)

        def unlikeness(row: int) -> tuple[bool, bool, int]:
            other = examples[row]
            # Prefer a row of a small chat: the rows of a large one are hard enough to separate.
            return other.chat_id != alone.chat_id, other.label != alone.label, -of_chat[other.chat_id]

        blocks[-1].append(max((row for block in blocks[:-1] for row in block), key=unlikeness))
    return blocks


class _Arrangement:
    """Rows in blocks. Swaps improve it; the number of blocks with the rarer label never falls.

    A ring of k rows can keep a chat's rows from being neighbours only if it has at most k // 2 of them.
    """

    def __init__(self, examples: Sequence[Ordered], blocks: list[list[int]]) -> None:
        self.examples, self.blocks = examples, blocks
        self.chats = [Counter(examples[row].chat_id for row in block) for block in blocks]

    def _has_room(self, number: int, chat: str) -> bool:
        return self.chats[number][chat] < len(self.blocks[number]) // 2

    def _swap(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        """Swap the rows at two places, each a block's number and a seat."""
        mine, theirs = (self.blocks[number][seat] for number, seat in (one, other))
        for (number, seat), goes, comes in ((one, mine, theirs), (other, theirs, mine)):
            self.blocks[number][seat] = comes
            self.chats[number][self.examples[comes].chat_id] += 1
            self.chats[number][self.examples[goes].chat_id] -= 1

    def separate_chats(self, rare: bool) -> int:
        """Move rows until no chat has more than half a block; returns how many could not be moved."""
        places = [(number, seat) for number, block in enumerate(self.blocks) for seat in range(len(block))]
        rares = [sum(self.examples[row].label == rare for row in block) for block in self.blocks]
        hopeless: set[tuple[str, bool]] = set()
        left = 0
        for here, seat in places:
            row = self.examples[self.blocks[here][seat]]
            if self.chats[here][row.chat_id] <= len(self.blocks[here]) // 2:
                continue
            for there, other_seat in places if (row.chat_id, row.label) not in hopeless else ():
                other = self.examples[self.blocks[there][other_seat]]
                giver, taker = (here, there) if row.label == rare else (there, here)
                if (
                    other.chat_id != row.chat_id
                    and self._has_room(there, row.chat_id)
                    and self._has_room(here, other.chat_id)
                    and (other.label == row.label or rares[giver] > 1 or not rares[taker])
                ):
                    self._swap((here, seat), (there, other_seat))
                    rares[giver] -= other.label != row.label
                    rares[taker] += other.label != row.label
                    break
            else:
                hopeless.add((row.chat_id, row.label))
                left += 1
        return left

    def gather_chats(self) -> None:
        """Swap rows of equal label between blocks to bring rows of a chat together, large chats first."""
        examples = self.examples
        times = Counter(row for block in self.blocks for row in block)
        where = {row: number for number, block in enumerate(self.blocks) for row in block}
        of_chat: dict[str, list[int]] = {}
        for row in where:
            of_chat.setdefault(examples[row].chat_id, []).append(row)
        # A row that is repeated could be paired with itself.
        settled = {row for row in where if times[row] > 1}

        def move(row: int, home: int) -> bool:
            """Swap `row` with a row in the block `home` that may leave it; returns whether there was one."""
            mine = examples[row]
            seats = enumerate(self.blocks[home])
            for seat, other in sorted(seats, key=lambda one: abs(examples[one[1]].length - mine.length)):
                theirs = examples[other]
                if (
                    other not in settled
                    and theirs.label == mine.label
                    and theirs.chat_id != mine.chat_id
                    and self._has_room(where[row], theirs.chat_id)
                ):
                    self._swap((where[row], self.blocks[where[row]].index(row)), (home, seat))
                    where[row], where[other] = home, where[row]
                    return True
            return False

        for chat, rows in sorted(of_chat.items(), key=lambda one: -len(one[1])):
            rows.sort(key=lambda row: -examples[row].length)
            for place, first in enumerate(rows):
                if first in settled:
                    continue
                home = where[first]
                settled.add(first)
                hopeless: set[bool] = set()
                for row in rows[place + 1 : place + 1 + 4 * len(self.blocks[home])]:
                    label = examples[row].label
                    if row in settled or label in hopeless:
                        continue
                    if where[row] == home or (self._has_room(home, chat) and move(row, home)):
                        settled.add(row)
                    elif (
                        self.chats[home][chat] == 1
                        and self._has_room(where[row], chat)
                        and move(first, where[row])
                    ):
                        home = where[first]
                        settled.add(row)
                    else:
                        hopeless.add(label)
                    if len(hopeless) == 2:
                        break


def _seated(examples: Sequence[Ordered], block: list[int], draw: random.Random) -> list[int]:
    """The block as a ring that separates rows of one chat: every second seat, largest chat first."""
    draw.shuffle(block)
    of_chat = Counter(examples[row].chat_id for row in block)
    rank = {chat: place for place, (chat, _) in enumerate(of_chat.most_common())}
    block.sort(key=lambda row: rank[examples[row].chat_id])
    ring = [0] * len(block)
    ring[::2], ring[1::2] = block[: (len(block) + 1) // 2], block[(len(block) + 1) // 2 :]
    start = draw.randrange(len(ring))
    return ring[start:] + ring[:start]
