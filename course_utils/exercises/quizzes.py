"""Quizzes: each choice opens to say why it is right or wrong.

Written as plain HTML that needs no widget and no kernel, so that it works offline, in a stored notebook and by keyboard;
`answer` is the same as a function.
"""

from __future__ import annotations

import tomllib
from functools import cache
from typing import NamedTuple

from course_utils import assets
from course_utils.errors import CourseError
from course_utils.style import escaped


class Choice(NamedTuple):
    """One choice of a question."""

    text: str
    right: bool
    why: str


class Question(NamedTuple):
    """One question; exactly one of its choices is right."""

    text: str
    choices: tuple[Choice, ...]


@cache
def questions(section: str) -> tuple[Question, ...]:
    """Return the questions of a lesson's quiz, in `data/quizzes/NN.toml`.

    Args:
        section: number of the lesson, e.g. "02".

    Raises:
        CourseError: the lesson has no quiz.
    """
    files = {file.stem: file for file in sorted(assets.path("data/quizzes").glob("*.toml"))}
    if section not in files:
        raise CourseError(f"no quiz for section {section!r}; there are {', '.join(files)}")
    rows = tomllib.loads(files[section].read_text(encoding="utf-8"))["questions"]
    return tuple(
        Question(row["text"], tuple(Choice(one["text"], one.get("right", False), one["why"]) for one in row["choices"]))
        for row in rows
    )


class Quiz:
    """A section's quiz. Shows itself; `answer(1, "b")` explains one choice as text."""

    def __init__(self, questions: tuple[Question, ...]) -> None:
        self.questions = questions

    def answer(self, question: int, choice: str) -> str:
        """Explanation of a choice: question counted from 1, choice "a", "b" …"""
        if not 1 <= question <= len(self.questions):
            raise CourseError(f"there are questions 1 to {len(self.questions)}")
        choices = self.questions[question - 1].choices
        index = "abcdefgh".find(choice.strip().lower()) if choice.strip() else -1
        if not 0 <= index < len(choices):
            raise CourseError(f"question {question} has choices a to {'abcdefgh'[len(choices) - 1]}")
        _, right, why = choices[index]
        return f"{'Right.' if right else 'Not this one.'} {why}"

    def _repr_html_(self) -> str:
        parts = []
        for number, question in enumerate(self.questions, 1):
            parts.append(f"<p><b>{number}. {escaped(question.text)}</b></p>")
            for letter, (text, right, why) in zip("abcdefgh", question.choices):
                verdict = "Right." if right else "Not this one."
                parts.append(
                    f'<details style="margin-left:1.5em"><summary>{letter}) {escaped(text)}</summary>'
                    f'<p style="margin-left:1em"><b>{verdict}</b> {escaped(why)}</p></details>'
                )
        return "".join(parts)

    def __repr__(self) -> str:
        lines = []
        for number, question in enumerate(self.questions, 1):
            lines.append(f"{number}. {question.text}")
            lines += [f"   {letter}) {text}" for letter, (text, _, _) in zip("abcdefgh", question.choices)]
        return "\n".join([*lines, 'quiz("...").answer(1, "b") explains a choice.'])


def quiz(section: str) -> Quiz:
    """The quiz of a section, e.g. "02"."""
    return Quiz(questions(section))
