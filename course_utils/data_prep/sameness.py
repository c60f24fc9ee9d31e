"""Do two texts that share most of their words say the same?

"What is the capital of France?" and "What is the capital of Spain?" share two thirds of their words and pairs of words, and
are two questions. So of a pair that is alike what differs is looked at: numbers and negations always, names and the
words that
carry the content where the text is short or the answer tells little. A word with a slip of the finger is the same word.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from course_utils.data_prep.pii.names import common_words
from course_utils.data_prep.similarity import WITHOUT_SPACES, jaccard, normalise, shingles

SHORT = 12  # words: in a shorter text one other word makes another question
PASSAGE = 25  # words: in a longer text another name does not, if the answer is the same and says something
LABEL = 6  # words: a shorter answer may be right for many questions, so it does not say that two are one
ANSWERS_ALIKE = 0.8
# What may be there or not, or be another of its kind, without saying anything else.
FILLER = frozenset(
    "a an the this that these those it its is are was were be been am i im ive you we they he she me my your our their "
    "us of to in on at "
    "for with from by as and or but so if then than there here please pls kindly hi hello hey dear team sir madam thanks "
    "thank thx "
    "regards best kind yours sincerely again just also very really rather still now do does did have has had will would "
    "can could "
    "shall should may might s t ve re ll d m don dont doesn doesnt didn didnt isn isnt wasn wasnt won wont couldn "
    "couldnt wouldn wouldnt".split()
)
# "t" is what is left of "don't".
NEGATIONS = frozenset(
    "not no never none nobody nothing nowhere neither nor without cannot t cant wont dont doesnt didnt isnt wasnt "
    "couldnt wouldnt shouldnt nicht kein "
    "keine keinen nie pas jamais sans sin nunca niet geen non 不 没 沒 無 无 未".split()
)
CODE = re.compile(r"[;{}]|\w\(\w*\)|[<>=]{2}")
SYMBOL = re.compile(r"[;{}()<>=+*/%!&|\[\]]")
OPERATOR = re.compile(r"[<>=+*%|^/]|(?<=\d)\s*-\s*(?=\d)")
DIGIT = re.compile(r"\d")
NAME = re.compile(r"(?<=[\w,;'’\")] )[^\W\d_a-z][^\W_]*")  # a word with a capital inside a sentence


def same_question(one: str, other: str, answer: str) -> bool:
    """Whether two prompts with most words in common ask the same, given the answer that both have.

    Args:
        one, other: prompts.
        answer: theirs. A label may be right for both though they are two questions; a long text hardly.
    """
    return not _differ(one, other, strict=len(_words(answer)) < LABEL)


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are one: the same but for case, spacing and punctuation, or but for a slip or filler in a "
    "long one."""
    mine, theirs = _words(one), _words(other)
    if mine == theirs:
        # Of "+" and "-" nothing is left to compare.
        return operators(one) == operators(other) if mine else one.strip() == other.strip()
    fewer, more = sorted((len(mine), len(theirs)))
    if fewer < ANSWERS_ALIKE * more or fewer < SHORT:
        return False
    return jaccard(shingles(one), shingles(other)) >= ANSWERS_ALIKE and not _differ(one, other, strict=True)


def operators(text: str) -> str:
    """What calculates and compares in a text: "2 + 2" and "2 * 2" have the same words."""
    return "".join(mark.strip() for mark in OPERATOR.findall(text))


def _differ(one: str, other: str, strict: bool) -> bool:
    if (CODE.search(one) or CODE.search(other)) and "".join(SYMBOL.findall(one)) != "".join(SYMBOL.findall(other)):
        return True  # of code to be mended, a semicolon is the question
    mine, theirs = _words(one), _words(other)
    counted, their_count = Counter(mine), Counter(theirs)
    more, less = counted - their_count, their_count - counted
    left, right = _unpaired(more.keys() - their_count.keys(), less.keys() - counted.keys())
    slips = (more.keys() | less.keys()) - left - right - (counted.keys() & their_count.keys())
    denied, denied_there = (
        sum(n for word, n in side.items() if word in NEGATIONS and word not in slips) for side in (more, less)
    )
    if denied != denied_there and not (slips & NEGATIONS):
        return True
    length = min(_length(mine), _length(theirs))
    short = length < SHORT or strict
    digits = [any(DIGIT.search(word) for word in side) for side in (left, right)]
    if all(digits) or (short and any(digits)):
        return True
    left, right = left - FILLER, right - FILLER
    if not (left or right):
        # The same words in another order: "A is taller than B".
        return short and mine != theirs and counted == their_count
    if left and right and short:
        return True
    names = left & _names(one), right & _names(other)
    return (all(names) and length < PASSAGE) or (short and (any(names) or (strict and length < SHORT)))


def _length(words: Sequence[str]) -> float:
    """Words; where each character is taken for one, half as many. Of long texts it is enough to know that they are."""
    if len(words) > 2 * PASSAGE:
        return len(words)
    return sum(0.5 if WITHOUT_SPACES.match(word) else 1 for word in words)


@functools.lru_cache(maxsize=4096)  # a row that stays is compared with each of its copies
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(text).split())


def _names(text: str) -> set[str]:
    found = NAME.findall(unicodedata.normalize("NFKC", text))
    return {word.casefold() for word in found if word != "I"} if len(found) < 200 else set()


def _unpaired(only: set[str], lacking: set[str]) -> tuple[set[str], set[str]]:
    """Words of either side that are no slip of one on the other."""
    left, right = set(only), set(lacking)
    for word in only:
        twin = next((w for w in right if _is_slip(word, w)), None)
        if twin:
            left.discard(word)
            right.discard(twin)
    return left, right


def _is_slip(one: str, other: str) -> bool:
    """One is the other with a letter added, lost, changed or two swapped, and is no common word of its own.

    "form" and "from" are two words, "dinng" and "dining" are one. A plural counts as a slip.
    """
    if min(len(one), len(other)) < 4 or one[0] != other[0] or abs(len(one) - len(other)) > 2:
        return False
    if DIGIT.search(one + other):
        return False
    if one in (other + "s", other + "es") or other in (one + "s", one + "es"):
        return True
    if one in common_words() and other in common_words():
        return False
    start = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
    tails = one[: start - 1 : -1], other[: start - 1 : -1]
    end = next((i for i, (a, b) in enumerate(zip(*tails)) if a != b), min(map(len, tails)))
    a, b = one[start : len(one) - end], other[start : len(other) - end]
    return (
        max(len(a), len(b)) <= 1 or (len(a) == len(b) == 2 and a == b[::-1]) or (len(one) >= 7 and max(len(a), len(b)) <= 2)
    )
