"""Claims that circulate, judged: a card for each, with the evidence and the code that judged it behind a fold.

One module per lesson holds a function per claim, `judge_L3` for claim L3, which returns a `Verdict`. The notebook calls
`evidence.card("L3")`, with what it has measured itself as further arguments.
"""

from course_utils.evidence import lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06
from course_utils.evidence.cards import Verdict, card, summary

__all__ = ["Verdict", "card", "lesson_01", "lesson_02", "lesson_03", "lesson_04", "lesson_05", "lesson_06", "summary"]
