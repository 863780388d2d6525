"""Redacts exported texts: numbered placeholders replace the personal data that Presidio recognises.

Patterns (addresses, numbers, passwords in links) need no language model. Names and places are recognised if
the operator installed a spaCy model and set `redaction_model`. Nothing is downloaded.
"""

from collections import Counter
from dataclasses import replace
from functools import cache, lru_cache, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from storage.chats.tools import TOOL_ROLES, mapped
from storage.errors import BadSetting, InvalidInput
from storage.examples.example import Example

if TYPE_CHECKING:
    from presidio_analyzer import EntityRecognizer

# Longer texts are analysed in pieces, because some patterns take time quadratic in the length, and spaCy
# refuses a million characters. Pieces overlap, so that no match is cut in two.
PIECE = 10_000
OVERLAP = 300
CACHED_PIECES = 512  # a prompt recurs with each reply to it
LEAST_SCORE = 0.35  # a credit card number with a wrong check digit scores 0.3, a phone number 0.4
# What a spaCy model recognises about people; organisations, dates and amounts stay.
NAMES_AND_PLACES = ("PERSON", "LOCATION", "NRP")
LINK_WITH_PASSWORD = r"\b[a-z][a-z0-9+.-]{0,30}://[^\s/@:]{0,200}:[^\s/@]{1,200}@[^\s\"'<>]{1,500}"


class Span(NamedTuple):
    start: int
    end: int
    entity: str


class Redactor:
    """Finds personal data in texts; can be shared by exports and threads."""

    def __init__(self, language: str, model: str = "") -> None:
        """`model` is the name or folder of a spaCy model, or "" for patterns alone.

        Raises InvalidInput if the extra `redaction` is not installed, BadSetting for a language or model that
        spaCy does not have, or a model of another language.
        """
        try:
            import spacy
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
            from presidio_anonymizer import AnonymizerEngine
        except ImportError as error:
            raise InvalidInput(
                f"Redaction needs the package {error.name}; install it with "
                f"`pip install 'thumbloop[redaction]'`, or export without redaction.",
                code="redaction_missing",
                field="redact",
            ) from error
        pipeline = _load(spacy, language, model)
        recognizers = _recognizers(language, named=bool(model))
        engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": model or "blank"}])
        engine.nlp = {language: pipeline}  # type: ignore[assignment]  # otherwise it would download a model
        self._analyzer = AnalyzerEngine(
            registry=RecognizerRegistry(recognizers=recognizers, supported_languages=[language]),
            nlp_engine=engine,
            supported_languages=[language],
        )
        self._anonymizer = AnonymizerEngine()  # type: ignore[no-untyped-call]
        self._language = language
        self._entities = sorted({entity for one in recognizers for entity in one.supported_entities})
        self._in_piece = lru_cache(CACHED_PIECES)(self._analyse)
        packages = ("presidio-analyzer", "presidio-anonymizer", "spacy", "phonenumbers")
        self.about: dict[str, Any] = {
            "language": language,
            "model": f"{pipeline.meta['name']} {pipeline.meta['version']}" if model else None,
            "entities": self._entities,
            "engines": {package: version(package) for package in packages},
        }

    def spans(self, text: str) -> list[Span]:
        """The personal data in a text, in order and without overlaps."""
        found: list[Span] = []
        end = 0
        for at in range(0, len(text), PIECE):
            for start, stop, entity in self._in_piece(text[at : at + PIECE + OVERLAP]):
                if start < PIECE and at + start >= end:
                    end = at + stop
                    found.append(Span(at + start, end, entity))
        return found

    def _analyse(self, piece: str) -> tuple[Span, ...]:
        from presidio_anonymizer.entities import ConflictResolutionStrategy, OperatorConfig

        results = self._analyzer.analyze(
            piece, self._language, entities=self._entities, score_threshold=LEAST_SCORE
        )
        # The anonymizer only resolves overlaps. We replace the spans ourselves: it works from the end of the
        # text, so it could not number them from the beginning.
        settled = self._anonymizer.anonymize(
            piece,
            results,  # type: ignore[arg-type]
            {"DEFAULT": OperatorConfig("keep")},
            ConflictResolutionStrategy.REMOVE_INTERSECTIONS,
            merge_entities_with_spaces=False,
        )
        return tuple(sorted(Span(item.start, item.end, item.entity_type) for item in settled.items))


class Redaction:
    """Redacts the examples of one export; `counts` has the number of replacements per entity."""

    def __init__(self, redactor: Redactor) -> None:
        self.counts: Counter[str] = Counter()
        self._redactor = redactor

    def of(self, *examples: Example) -> tuple[Example, ...]:
        """Redact the examples of one row; equal data gets the same number in all their texts."""
        text = partial(self._replaced, numbers={})

        def messages(values: list[dict[str, str]]) -> list[dict[str, str]]:
            return [
                {
                    name: value if name == "role" else content(value, message["role"])
                    for name, value in message.items()
                }
                for message in values
            ]

        def content(value: str, role: str) -> str:
            return mapped(value, text) if role in TOOL_ROLES else text(value)

        return tuple(
            replace(
                example,
                prompt=messages(example.prompt),
                completion=messages(example.completion),
                comment=text(example.comment) if example.comment else example.comment,
                correction=text(example.correction) if example.correction else example.correction,
                tags=[text(tag) for tag in example.tags],
            )
            for example in examples
        )

    def about(self) -> dict[str, Any]:
        """The settings, engines and counts of replacements, for a manifest."""
        return self._redactor.about | {"replaced": dict(sorted(self.counts.items()))}

    def _replaced(self, text: str, numbers: dict[tuple[str, str], int]) -> str:
        parts: list[str] = []
        at = 0
        for start, end, entity in self._redactor.spans(text):
            known = sum(entity == other for other, _ in numbers)
            number = numbers.setdefault((entity, text[start:end]), known + 1)
            parts += (text[at:start], f"<{entity}_{number}>")
            self.counts[entity] += 1
            at = end
        return "".join([*parts, text[at:]])


@cache
def load_redactor(language: str, model: str) -> Redactor:
    """The Redactor for these settings, loaded once per process."""
    return Redactor(language, model)


def _load(spacy: Any, language: str, model: str) -> Any:
    try:
        pipeline = spacy.load(model) if model else spacy.blank(language)
    except ImportError as error:
        raise BadSetting(
            f"THUMBLOOP_REDACTION_LANGUAGE={language!r} is not a language of spaCy; use a code such as en.",
            field="redaction_language",
        ) from error
    except OSError as error:
        raise BadSetting(
            f"THUMBLOOP_REDACTION_MODEL={model!r} is neither an installed spaCy model nor a folder of one; "
            f"`python -m spacy download {model}` installs it, or leave the setting empty.",
            field="redaction_model",
        ) from error
    if pipeline.lang != language:
        raise BadSetting(
            f"THUMBLOOP_REDACTION_MODEL={model!r} is for the language {pipeline.lang!r}; "
            f"set THUMBLOOP_REDACTION_LANGUAGE to it.",
            field="redaction_language",
        )
    return pipeline


def _recognizers(language: str, *, named: bool) -> list["EntityRecognizer"]:
    from presidio_analyzer import Pattern, PatternRecognizer
    from presidio_analyzer import predefined_recognizers as known

    kinds = (
        known.CreditCardRecognizer,
        known.CryptoRecognizer,
        known.IbanRecognizer,
        known.IpRecognizer,
        known.MacAddressRecognizer,
        known.PhoneRecognizer,
    )
    link = Pattern("link with a password", LINK_WITH_PASSWORD, 0.9)
    # Presidio's own recognizer of addresses would download a list of domains, and miss ada@mail.internal.
    patterns = {"EMAIL_ADDRESS": known.EmailRecognizer.PATTERNS, "LINK_WITH_PASSWORD": [link]}
    in_language: dict[str, Any] = {"supported_language": language}
    found: list[EntityRecognizer] = [kind(**in_language) for kind in kinds]
    found += [PatternRecognizer(entity, patterns=these, **in_language) for entity, these in patterns.items()]
    if named:
        found.append(known.SpacyRecognizer(supported_entities=list(NAMES_AND_PLACES), **in_language))
    return found
