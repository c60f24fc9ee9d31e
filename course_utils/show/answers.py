"""Answers of a model as cards, side by side, with what is right and wrong in them marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from course_utils.errors import CourseError
from course_utils.style import box, columns, tone


def answers(
    messages: Sequence[str],
    models: Mapping[str, Sequence[str]],
    references: Sequence[Mapping[str, Any]] | None = None,
    parse: Callable[[str], Mapping[str, Any]] = json.loads,
    longest: int = 280,
) -> Answers:
    """Cards: for each message one card per model.

    Args:
        messages: what was asked.
        models: name → its answers, in the order of the messages.
        references: the right record of each message; with them each field of an answer is marked right or wrong.
        parse: turns an answer into a record; raises ValueError where it cannot.
        longest: characters of an answer or a message that are shown.

    Raises:
        CourseError: lists of different lengths.
    """
    for name, values in [*models.items(), ("references", references)]:
        if values is not None and len(values) != len(messages):
            raise CourseError(f"{name}: {len(values)} answers to {len(messages)} messages")
    return Answers(list(messages), {name: list(a) for name, a in models.items()}, references, parse, longest)


class Answers:
    """See `answers`."""

    def __init__(
        self,
        messages: list[str],
        models: dict[str, list[str]],
        references: Sequence[Mapping[str, Any]] | None,
        parse: Callable[[str], Mapping[str, Any]],
        longest: int,
    ) -> None:
        self.messages, self.models, self._references, self._parse, self._longest = (
            messages,
            models,
            references,
            parse,
            longest,
        )

    def fields(self, name: str, index: int) -> list[tuple[str, Any, bool]] | None:
        """(field, value, whether it is right) of an answer; None if it is no record."""
        if self._references is None:
            return None
        try:
            record = self._parse(self.models[name][index].strip())
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, Mapping):
            return None
        right = self._references[index]
        return [(field, record.get(field), record.get(field) == right[field]) for field in right]

    def _reference(self, index: int, field: str) -> Any:
        return None if self._references is None else self._references[index][field]

    def _cut(self, text: str) -> str:
        return text if len(text) <= self._longest else text[: self._longest].rstrip() + " …"

    def _card(self, name: str, index: int) -> str:
        head = f"<b>{escape(name)}</b><br>"
        fields = self.fields(name, index)
        if fields is None:
            state = "" if self._references is None else "<br><b>✗ not a record</b>"
            return box(
                f'{head}<span style="white-space:pre-wrap">{escape(self._cut(self.models[name][index]))}</span>{state}',
                "plain" if self._references is None else "bad", f"{name}: answer",
            )  # fmt: skip
        wrong = sum(not right for _, _, right in fields)
        lines = "".join(
            f'<span style="{tone("good" if right else "bad")};padding:.05em .3em">{"✓" if right else "✗"} {escape(field)}: '
            f"{escape(_written(value))}</span>"
            f"{'' if right else f' <small>right: {escape(_written(self._reference(index, field)))}</small>'}<br>"
            for field, value, right in fields
        )
        return box(head + lines, "bad" if wrong else "good", f"{name}: answer")

    def _repr_html_(self) -> str:
        parts = []
        for index, message in enumerate(self.messages):
            message_html = f'<b>message</b><br><span style="white-space:pre-wrap">{escape(self._cut(message))}</span>'
            parts.append(box(message_html, "quiet", "message") + columns(self._card(name, index) for name in self.models))
        return f'<div style="max-width:60em">{"<br>".join(parts)}</div>'

    def __repr__(self) -> str:
        lines = []
        for index, message in enumerate(self.messages):
            lines.append(f"message: {self._cut(message)}")
            for name, replies in self.models.items():
                fields = self.fields(name, index)
                wrong = "" if fields is None else ", ".join(field for field, _, right in fields if not right)
                lines.append(f"  {name}: {self._cut(replies[index])}" + (f"   (wrong: {wrong})" if wrong else ""))
        return "\n".join(lines)


def _written(value: Any) -> str:
    return "null" if value is None else str(value)
