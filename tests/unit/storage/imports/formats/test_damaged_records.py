"""Records of every format with anything in any place: rows or one of our errors, never a traceback."""

import copy
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from storage.errors import InvalidInput
from storage.imports.formats.table import FORMATS, rows_of, sniff
from storage.imports.rows.format import Sample
from storage.imports.rows.options import ImportOptions

SAMPLES = [(name, sample) for name, known in FORMATS.items() for sample in known.samples]
ANYTHING = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-3, 9)
    | some.floats()
    | some.sampled_from(
        ["", "x", "1", "user", "a", "good", "[]", '[{"role": "user"}]', "\n\nHuman: a", "N/A"]
    ),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.dictionaries(
            some.sampled_from(["role", "content", "id", "value", "rating", "x"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value within this one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, held in inner for place in places(held, (*path, key))]


def put(record: dict[str, Any], place: tuple[Any, ...], value: Any) -> None:
    holder: Any = record
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value


@pytest.mark.parametrize(
    ("name", "sample"), SAMPLES, ids=[f"{name} {sample.title}" for name, sample in SAMPLES]
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=some.data())
def test_a_damaged_record_gives_rows_or_our_error(name: str, sample: Sample, data: some.DataObject) -> None:
    record = copy.deepcopy(dict(sample.record))
    spots = places(record)
    for place in data.draw(some.lists(some.sampled_from(spots), min_size=1, max_size=2)):
        try:
            put(record, place, data.draw(ANYTHING))
        except (KeyError, TypeError, IndexError):  # the other change has taken its place away
            continue
    raters = data.draw(some.sampled_from([None, "each", "mean", "majority"]))
    options = ImportOptions(**(sample.options.model_dump() | {"raters": raters}))
    sniff(record, options)
    with suppress(InvalidInput):
        list(rows_of(FORMATS[name], options.renamed(record), options))
