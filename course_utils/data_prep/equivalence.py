"""Do two texts that have most of their words in common say the same?

"What is the capital of France?" and "What is the capital of Spain?" have two thirds of their words and word pairs in common,
and are two questions. So in a similar pair the difference is examined: always numbers and negations; also names and content
words, if the text is short or the answer says little. A word with a typing error counts as the same word.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from course_utils.data_prep.pii.names import common_words
from course_utils.data_prep.similarity import WITHOUT_SPACES, jaccard, normalise, shingles

SHORT = 12  # words: in a shorter text, one different word makes a different question
PASSAGE = 25  # words: in a longer text, a different name does not, if the answer is the same and informative
LABEL = 6  # words: a shorter answer may be right for many questions, so it is no evidence that two are the same
ANSWERS_ALIKE = 0.8
# Words that may be missing, added or exchanged for each other without changing what the text says.
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
# "t" is what normalising leaves of the negation in "don't".
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
    """Return whether two prompts that have most words in common ask the same question, given the answer that both have.

    Args:
        one, other: the prompts.
        answer: their common answer. A label may be right for two different questions; a long text hardly can.
    """
    return not _differ(one, other, strict=len(_words(answer)) < LABEL)


def same_answer(one: str, other: str) -> bool:
    """Return whether two answers say the same.

    They may differ in case, spacing and punctuation, and long ones also in a typing error or filler words.
    """
    words, other_words = _words(one), _words(other)
    if words == other_words:
        # "+" and "-" have no words to compare.
        return operators(one) == operators(other) if words else one.strip() == other.strip()
    fewer, more = sorted((len(words), len(other_words)))
    if fewer < ANSWERS_ALIKE * more or fewer < SHORT:
        return False
    if jaccard(shingles(one), shingles(other)) < ANSWERS_ALIKE or _differ(one, other, strict=True):
        return False
    # "100 miles" is not "100 miles in a straight line"; among many words, a few more say little that is new.
    return more >= PASSAGE or not any(
        side - FILLER for side in _unpaired(set(words) - set(other_words), set(other_words) - set(words))
    )


def operators(text: str) -> str:
    """Return the arithmetic and comparison operators in a text.

    Without them, "2 + 2" and "2 * 2" would have the same words.
    """
    return "".join(mark.strip() for mark in OPERATOR.findall(text))


def _differ(one: str, other: str, strict: bool) -> bool:
    if (CODE.search(one) or CODE.search(other)) and "".join(SYMBOL.findall(one)) != "".join(SYMBOL.findall(other)):
        return True  # if the question is what is wrong with some code, a semicolon matters
    words, other_words = _words(one), _words(other)
    counts, other_counts = Counter(words), Counter(other_words)
    more, less = counts - other_counts, other_counts - counts
    only_one, only_other = _unpaired(more.keys() - other_counts.keys(), less.keys() - counts.keys())
    slips = (more.keys() | less.keys()) - only_one - only_other - (counts.keys() & other_counts.keys())
    negations, other_negations = (
        sum(n for word, n in side.items() if word in NEGATIONS and word not in slips) for side in (more, less)
    )
    if negations != other_negations and not (slips & NEGATIONS):
        return True
    length = min(_length(words), _length(other_words))
    short = length < SHORT or strict
    digits = [any(DIGIT.search(word) for word in side) for side in (only_one, only_other)]
    if all(digits) or (short and any(digits)):
        return True
    only_one, only_other = only_one - FILLER, only_other - FILLER
    if not (only_one or only_other):
        # The same words in another order: "A is taller than B".
        return short and words != other_words and counts == other_counts
    if only_one and only_other and short:
        return True
    names = only_one & _names(one), only_other & _names(other)
    return (all(names) and length < PASSAGE) or (short and (any(names) or (strict and length < SHORT)))


def _length(words: Sequence[str]) -> float:
    """The number of words; a word that is one character of a script without spaces counts half, except in long texts."""
    if len(words) > 2 * PASSAGE:
        return len(words)
    return sum(0.5 if WITHOUT_SPACES.match(word) else 1 for word in words)


@functools.lru_cache(maxsize=4096)  # a row that is kept is compared with each of its copies
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(text).split())


def _names(text: str) -> set[str]:
    capitalised = NAME.findall(unicodedata.normalize("NFKC", text))
    return {word.casefold() for word in capitalised if word != "I"} if len(capitalised) < 200 else set()


def _unpaired(only: set[str], lacking: set[str]) -> tuple[set[str], set[str]]:
    """The words on each side that are not a misspelling of a word on the other."""
    unpaired, other_unpaired = set(only), set(lacking)
    for word in only:
        twin = next((w for w in other_unpaired if _is_slip(word, w)), None)
        if twin:
            unpaired.discard(word)
            other_unpaired.discard(twin)
    return unpaired, other_unpaired


def _is_slip(one: str, other: str) -> bool:
    """Whether two words differ by one typing error: a letter added, lost or changed, or two swapped.

    Two common words are never the same: "form" and "from" are two words, "dinng" and "dining" are one. A plural counts as a
    typing error.
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
