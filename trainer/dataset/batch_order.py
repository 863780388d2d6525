"""Decides the order in which rows are trained on, micro-batch by micro-batch. Pure; no torch.

KTO estimates its KL term by pairing each prompt with its neighbour's reply inside a micro-batch, so the order
of the rows is part of the objective, not a loading detail.
"""

import heapq
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample

# If the rows of some chat cannot be kept apart, the rows are shuffled again until this many rows have been
# dealt in all. A small set may have few valid orders, and a large one has many.
DEALT = 2000

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


def order(examples: Sequence[Ordered], *, batch_size: int, seed: int, epoch: int = 0) -> list[int]:
    """Indices of `examples` in the order of one epoch, to be cut into blocks of `batch_size`.

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

    The same arguments give the same order on every machine. Each epoch has its own list, and its last block
    may be short.
    """
    assert batch_size >= 2
    if len(examples) == 1:
        return []
    draw = random.Random(f"{seed}:{epoch}")
    best: list[list[int]] = []
    fewest = None
    for _ in range(max(1, DEALT // max(1, len(examples)))):
        blocks = _deal(examples, batch_size, draw)
        crowded = _separate(examples, blocks)
        if fewest is None or crowded < fewest:
            best, fewest = blocks, crowded
        if not crowded:
            break
    _gather(examples, best)
    return [row for block in best for row in _seat(examples, block, draw)]


def blocks(examples: Sequence[Ordered], *, batch_size: int, seed: int, epoch: int = 0) -> list[list[int]]:
    """The order cut into micro-batches."""
    found = order(examples, batch_size=batch_size, seed=seed, epoch=epoch)
    return [found[start : start + batch_size] for start in range(0, len(found), batch_size)]


def training_order(
    rows: Sequence[TokenisedExample], settings: Settings, *, processes: int = 1
) -> Iterator[dict[str, Any]]:
    """Each micro-batch in order: `epoch`, `step` and `micro_batch`, all counted from 1, and its `records`.

    Records are the names of examples: the position in a file, or a message id. Each prompt's mismatched reply
    is that of the record before it in its micro-batch; the first one's is that of the last. With several
    processes, each takes the next micro-batch in turn.
    """
    in_a_step = settings.gradient_accumulation * processes
    step = 0
    for epoch in range(math.ceil(settings.epochs)):
        micro_batches = blocks(rows, batch_size=settings.batch_size, seed=settings.seed, epoch=epoch)
        steps_an_epoch = math.ceil(len(micro_batches) / in_a_step)
        for number, block in enumerate(micro_batches):
            if number % in_a_step == 0:
                if step >= math.ceil(settings.epochs * steps_an_epoch):
                    return
                step += 1
            yield {
                "epoch": epoch + 1,
                "step": step,
                "micro_batch": number + 1,
                "records": [rows[row].example.message_id for row in block],
            }


def write_order(
    rows: Sequence[TokenisedExample], settings: Settings, file: Path, *, processes: int = 1
) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for micro_batch in training_order(rows, settings, processes=processes):
            lines.write(json.dumps(micro_batch) + "\n")


def _deal(examples: Sequence[Ordered], batch_size: int, draw: random.Random) -> list[list[int]]:
    """Shuffle the rows into blocks, with the rarer label spread evenly and similar lengths together."""
    rows = list(range(len(examples)))
    draw.shuffle(rows)
    sizes = [min(batch_size, len(rows) - start) for start in range(0, len(rows), batch_size)]
    rare = _rarer_label(examples)
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
        turn = list(range(start, min(start + window, len(sizes))))
        draw.shuffle(turn)
        for kind, counts in ((rarer, rares), (others, [s - r for s, r in zip(sizes, rares, strict=True)])):
            here = sum(counts[number] for number in turn)
            alike = iter(sorted((kind.pop() for _ in range(here)), key=lambda row: examples[row].length))
            for number in turn:
                blocks[number] += islice(alike, counts[number])
    if sizes and sizes[-1] == 1:
        alone = examples[blocks[-1][0]]
        of_chat = Counter(example.chat_id for example in examples)

        def unlikeness(row: int) -> tuple[bool, bool, int]:
            company = examples[row]
            # Prefer a row of a small chat: the rows of a large one are hard enough to keep apart.
            return company.chat_id != alone.chat_id, company.label != alone.label, -of_chat[company.chat_id]

        blocks[-1].append(max((row for block in blocks[:-1] for row in block), key=unlikeness))
    return blocks


def _separate(examples: Sequence[Ordered], blocks: list[list[int]]) -> int:
    """Swap rows between blocks until no chat has more than half a block.

    Returns how many rows could not be moved. A ring of k rows can keep a chat's rows from being neighbours
    only if it has at most k // 2 of them. Swaps never reduce the number of blocks with the rarer label.
    """
    rare = _rarer_label(examples)
    chats = [Counter(examples[row].chat_id for row in block) for block in blocks]
    rares = [sum(examples[row].label == rare for row in block) for block in blocks]
    places = [(number, seat) for number, block in enumerate(blocks) for seat in range(len(block))]
    hopeless: set[tuple[str, bool]] = set()
    left = 0

    def has_room(number: int, chat: str) -> bool:
        return chats[number][chat] < len(blocks[number]) // 2

    for here, seat in places:
        row = blocks[here][seat]
        chat, label = examples[row].chat_id, examples[row].label
        if chats[here][chat] <= len(blocks[here]) // 2:
            continue
        for there, other_seat in places if (chat, label) not in hopeless else ():
            other = examples[blocks[there][other_seat]]
            giver, taker = (here, there) if label == rare else (there, here)
            if (
                other.chat_id != chat
                and has_room(there, chat)
                and has_room(here, other.chat_id)
                and (other.label == label or rares[giver] > 1 or not rares[taker])
            ):
                blocks[here][seat], blocks[there][other_seat] = blocks[there][other_seat], row
                for number, comes, goes in ((here, other, examples[row]), (there, examples[row], other)):
                    chats[number][comes.chat_id] += 1
                    chats[number][goes.chat_id] -= 1
                    rares[number] += (comes.label == rare) - (goes.label == rare)
                break
        else:
            hopeless.add((chat, label))
            left += 1
    return left


def _gather(examples: Sequence[Ordered], blocks: list[list[int]]) -> None:
    """Swap rows of the same label between blocks to bring rows of one chat together, large chats first."""
    where = {row: number for number, block in enumerate(blocks) for row in block}
    times = Counter(row for block in blocks for row in block)
    chats = [Counter(examples[row].chat_id for row in block) for block in blocks]
    of_chat: dict[str, list[int]] = {}
    for row in where:
        of_chat.setdefault(examples[row].chat_id, []).append(row)
    # A row that is repeated could be paired with itself.
    settled = {row for row in where if times[row] > 1}

    def has_room(number: int, chat: str) -> bool:
        return chats[number][chat] < len(blocks[number]) // 2

    def fetch(row: int, home: int) -> bool:
        """Swap `row` with a row in the block `home` that may leave it; returns whether there was one."""
        chat, label = examples[row].chat_id, examples[row].label
        wanted = examples[row].length  # of the row to swap with
        seats = sorted(enumerate(blocks[home]), key=lambda one: abs(examples[one[1]].length - wanted))
        for seat, other in seats:
            goes = examples[other]
            if (
                other not in settled
                and goes.label == label
                and goes.chat_id != chat
                and has_room(where[row], goes.chat_id)
            ):
                source = where[row]
                blocks[source][blocks[source].index(row)], blocks[home][seat] = other, row
                where[row], where[other] = home, source
                chats[home].update({chat: 1, goes.chat_id: -1})
                chats[source].update({chat: -1, goes.chat_id: 1})
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
            for row in rows[place + 1 : place + 1 + 4 * len(blocks[home])]:
                label = examples[row].label
                if row in settled or label in hopeless:
                    continue
                if where[row] == home or (has_room(home, chat) and fetch(row, home)):
                    settled.add(row)
                elif chats[home][chat] == 1 and has_room(where[row], chat) and fetch(first, where[row]):
                    home = where[first]
                    settled.add(row)
                else:
                    hopeless.add(label)
                if len(hopeless) == 2:
                    break


def _seat(examples: Sequence[Ordered], block: list[int], draw: random.Random) -> list[int]:
    """Arrange the block as a ring that separates rows of one chat: every second seat, largest chat first."""
    draw.shuffle(block)
    of_chat = Counter(examples[row].chat_id for row in block)
    rank = {chat: place for place, (chat, _) in enumerate(of_chat.most_common())}
    block.sort(key=lambda row: rank[examples[row].chat_id])
    ring = [0] * len(block)
    for seat, row in zip([*range(0, len(ring), 2), *range(1, len(ring), 2)], block, strict=True):
        ring[seat] = row
    start = draw.randrange(len(ring))
    return ring[start:] + ring[:start]


def _rarer_label(examples: Sequence[Ordered]) -> bool:
    return 2 * sum(example.label for example in examples) <= len(examples)
