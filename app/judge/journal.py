"""What was answered so far, in a file beside the result, so that nothing is asked twice."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.errors import Conflict
from storage.files.lines import Lines
from storage.files.locks import Timeout, lock


class Journal:
    """The answers by their keys, in FILE.part, until the result is written to FILE; a context manager.

    The plan is its first line. Raises Conflict if FILE is there, if FILE.part is of another plan, or if
    another process works on it.
    """

    def __init__(self, result: Path, plan: dict[str, Any]) -> None:
        self.file = result.with_name(f"{result.name}.part")
        if result.exists():
            raise Conflict(f"{result} is there already; name another file with --out.", field="out")
        result.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(result.with_name(f".{result.name}.lock"), wait=False)
        except Timeout as error:
            raise Conflict(f"Another process works on {result}; wait for it.", field="out") from error
        self._lines = Lines(self.file)
        first, *answers = self._lines.read() or [{"plan": plan}]
        if first["plan"] != plan and not answers:  # nothing is lost, for example with a name that was wrong
            self.file.unlink()
            self._lines, first = Lines(self.file), {"plan": plan}
        if first["plan"] != plan:
            found = first["plan"]
            names = sorted(name for name in {*found, *plan} if found.get(name) != plan.get(name))
            self._lock.lock.release()
            raise Conflict(
                f"{self.file} has answers of another {', '.join(names)}; repeat that command to continue it, "
                f"or name another file with --out.",
                field="out",
            )
        if not self._lines.read():
            self._lines.append(first)
        self.answers: dict[str, dict[str, Any]] = {one["key"]: one["answer"] for one in answers}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.lock.release()

    def append(self, key: str, answer: Mapping[str, Any]) -> None:
        self._lines.append({"key": key, "answer": dict(answer)})
        self.answers[key] = dict(answer)

    def remove(self) -> None:
        """Call it once the result is written."""
        self.file.unlink()
