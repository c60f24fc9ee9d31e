"""A conversation as the model sees it: the tokens of the chat template, coloured by whether a loss is taken on them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from course_utils.errors import CourseError
from course_utils.style import box, tone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def conversation(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int] | None = None, ignore: int = -100
) -> Conversation:
    """Tokens one by one.

    Args:
        tokenizer: the model's.
        ids: token ids, shape (length,).
        labels: shape (length,): `ignore` where no loss is taken. None marks nothing.
        ignore: the label that stands for no loss; PyTorch's cross-entropy skips -100.

    Raises:
        CourseError: ids and labels of different length.
    """
    ids = [int(i) for i in ids]
    scored = [False] * len(ids) if labels is None else [int(label) != ignore for label in labels]
    if len(scored) != len(ids):
        raise CourseError(f"{len(ids)} token ids and {len(scored)} labels: there must be one label for each token")
    return Conversation([_readable(tokenizer.decode([i])) for i in ids], scored, labels is not None)


def _readable(text: str) -> str:
    return text.replace("\n", "⏎").replace(" ", "␣") if text.strip() == "" else text.replace("\n", "⏎")


class Conversation:
    """See `conversation`.

    Attributes:
        tokens: their texts.
        scored: whether each carries loss.
    """

    def __init__(self, tokens: list[str], scored: list[bool], marked: bool) -> None:
        self.tokens, self.scored, self._marked = tokens, scored, marked

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
