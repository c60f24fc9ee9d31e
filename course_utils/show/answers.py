"""What models read and write: answers as cards side by side, tokens one by one, and parts that open."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError
from course_utils.style import box, columns, tone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Answers:
    """Cards: for each message one card per model.

    Args:
        messages: what was asked.
        models: name → its answers, in the order of the messages.
        references: the right record of each message; with them each field of an answer in JSON is marked right or wrong.
        longest: characters of an answer or a message that are shown.

    Raises:
        CourseError: lists of different lengths.
    """

    def __init__(
        self,
        messages: Sequence[str],
        models: Mapping[str, Sequence[str]],
        references: Sequence[Mapping[str, Any]] | None = None,
        longest: int = 280,
    ) -> None:
        for name, values in [*models.items(), ("references", references)]:
            if values is not None and len(values) != len(messages):
                raise CourseError(f"{name}: {len(values)} answers to {len(messages)} messages")
        self.messages, self.models, self._references = list(messages), models, references
        self._longest = longest

    def fields(self, name: str, index: int) -> list[tuple[str, Any, bool]] | None:
        """(field, value, whether it is right) of an answer; None if it is no record."""
        if self._references is None:
            return None
        try:
            record = json.loads(self.models[name][index].strip())
        except (ValueError, RecursionError):
            return None
        if not isinstance(record, Mapping):
            return None
        return [(field, record.get(field), record.get(field) == right) for field, right in self._references[index].items()]

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
        references = self._references[index] if self._references else {}
        lines = "".join(
            f'<span style="{tone("good" if right else "bad")};padding:.05em .3em">{"✓" if right else "✗"} {escape(field)}: '
            f"{escape(_written(value))}</span>"
            f"{'' if right else f' <small>right: {escape(_written(references[field]))}</small>'}<br>"
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


# -- tokens -------------------------------------------------------------------------------------------------------------


class Conversation:
    """Tokens one by one.

    Args:
        tokenizer: the model's.
        ids: token ids, shape (length,).
        labels: shape (length,): -100 where no loss is taken, as for PyTorch's cross-entropy. None marks nothing.

    Attributes:
        tokens: their texts.
        scored: whether each carries loss.

    Raises:
        CourseError: ids and labels of different length.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int] | None = None) -> None:
        texts = [tokenizer.decode([int(i)]) for i in ids]
        self.tokens = [(text if text.strip() else text.replace(" ", "␣")).replace("\n", "⏎") for text in texts]
        self.scored = [False] * len(texts) if labels is None else [int(label) != -100 for label in labels]
        self._marked = labels is not None
        if len(self.scored) != len(texts):
            raise CourseError(
                f"{len(texts)} token ids and {len(self.scored)} labels: there must be one label for each token"
            )

    def _repr_html_(self) -> str:
        parts = []
        for text, scored in zip(self.tokens, self.scored):
            look = tone("accent") + ";font-weight:600" if scored else tone("quiet")
            parts.append(
                f'<span style="{look};border-radius:3px;padding:.1em .15em;margin:1px;display:inline-block;white-space:pre">'
                f"{escape(text)}</span>" + ("<br>" if "⏎" in text else "")
            )
        key = ""
        if self._marked:
            without_loss, with_loss = self.scored.count(False), self.scored.count(True)
            key = (
                f'<p style="margin:.5em 0 0"><span style="{tone("quiet")};padding:.1em .4em">grey: read, no loss '
                f'({without_loss} tokens)</span> <span style="{tone("accent")};padding:.1em .4em;font-weight:600">'
                f"bold on blue: to be predicted, loss ({with_loss} tokens)</span></p>"
            )
        return box(
            f'<div style="font-family:ui-monospace,monospace;line-height:1.9">{"".join(parts)}</div>{key}', label="tokens"
        )

    def __repr__(self) -> str:
        text = "".join(f"[{t}]" if s else t for t, s in zip(self.tokens, self.scored)).replace("⏎", "\n")
        return (
            f"{text}\n[brackets]: loss on {self.scored.count(True)} of {len(self.tokens)} tokens" if self._marked else text
        )


# -- behind a line ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Folded:
    """A table, a figure or a card behind a line that opens.

    Attributes:
        title: the line.
        part: something that can be shown as HTML.
    """

    title: str
    part: Any

    def _repr_html_(self) -> str:
        return f"<details><summary><b>{escape(self.title)}</b></summary>{self.part._repr_html_()}</details>"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.part}"


answers, conversation, folded = Answers, Conversation, Folded  # what a lesson calls
