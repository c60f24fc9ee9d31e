"""The same example twice: exact copies, copies that differ only in case, spacing and punctuation, and near-duplicates.

A duplicate counts double in the loss, teaches its phrasing instead of its point, and, across a split, turns the score into a
memory test (Lee et al. 2021, "Deduplicating training data makes language models better"). Two rows are the same example when
their prompts ask the same question *and* their answers say the same. The same prompt with a different answer is a conflict,
which is reported and not dropped. Each dropped row has been compared directly with the row that is kept for it, never by way
of a third row.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from course_utils.data_prep import formats
from course_utils.data_prep.pii import PII_KINDS
from course_utils.data_prep.pii.words import CLOSES, GREETS, alternatives, common_words
from course_utils.data_prep.similarity import (
    Groups,
    in_processes,
    jaccard,
    normalise,
    shared_form,
    shingles,
    similar_pairs,
    without_form,
)

EXACT, NORMALISED, NEAR = COPIES = ("exact", "normalised", "near")
LONG = 12  # words: in a shorter answer, another word is another answer
PASSAGE = 25  # words: in a longer text a few words may be others, if the answer is the same and informative
LABEL = 6  # words: a shorter answer may be right for many questions, so it is no evidence that two are the same
FREEDOM, FREE = 12, 3  # in a passage, one word in twelve and at most three may differ on each side
TOO_MANY = 12  # words: texts of which one has so many that the other lacks are not aligned
ALIGNED = 400  # words: what differs between longer texts is compared without its order
# Words that may be missing, added or exchanged for each other without changing what the text says.
FILLER = frozenset(
    (
        "a an the this that these those it its is are was were be been am i im ive you we they he she me my your our their "
        "us of to in on at for with from by as and or but so if then than there here please pls kindly hi hello hey dear "
        "team sir madam thanks thank thx regards best kind yours sincerely again just also very really rather still now do "
        "does did have has had will would can could shall should may might s t ve re ll d m don dont doesn doesnt didn "
        "didnt isn isnt wasn wasnt won wont couldn couldnt wouldn wouldnt second try once more waiting reply answer anyone "
        "cheers help any "
        "vielen dank danke voraus bitte bald antworten merci avance plaît gracias antemano grazie anticipo bedankt alvast "
        "dziękuję proszę góry"
    ).split()
)
# "t" is what normalising leaves of the negation in "don't".
NEGATIONS = frozenset(
    (
        "not no never none nobody nothing nowhere neither nor without cannot t cant wont dont doesnt didnt isnt wasnt "
        "couldnt wouldnt shouldnt nicht kein keine keinen nie pas jamais sans sin nunca niet geen non 不 没 沒 無 无 未"
    ).split()
)
CODE = re.compile(r"[;{}]|\w\(\w*\)|[<>=]{2}")
SYMBOL = re.compile(r"[;{}()<>=+*/%!&|\[\]]")
DIGIT = re.compile(r"\d")
# What a telephone's mail program writes under a text.
PLACEHOLDER = re.compile(rf"\[(?:{'|'.join(PII_KINDS)})\]")
FOOTER = re.compile(
    r"^\W*(?:sent from my|get outlook for|von meinem|gesendet (?:von|mit)|envoyé de(?:puis)? mon|enviado desde mi|"
    r"inviato da(?:l mio)?|(?:verzonden|verstuurd) vanaf mijn|wysłan[eo] z)(?: [\w-]+){1,3}\W*$",
    re.IGNORECASE | re.MULTILINE,
)
# What a letter begins and ends with, whoever writes it: "Dear team,", "Kind regards", a name and a number below it.
GREETING = re.compile(
    rf"\A\s*(?:{alternatives(GREETS)}|"
    r"sehr geehrte[rs]?|geachte|madame|monsieur|estimad[oa]s|szanowni|to whom|a quien|à qui|aan wie|an alle)\b"
    r"(?:(?:[ /]\S+){0,6}[,:!.]? *\n+|(?: [^\W\d_]+){0,3}[,!] +)",
    re.IGNORECASE,
)
CLOSING = re.compile(
    rf"\n[ \t]*(?:[^\W\d_]+ ){{0,4}}(?:{'|'.join(word for word in CLOSES if len(word) > 4)}|"
    r"dank u|voraus|abrazo|dziękuję|respectueusement|the best|journée)[ ,.!]*"
    r"(?:\n[^\n?]{0,90}){0,8}\s*\Z",
    re.IGNORECASE,
)
NAME = re.compile(r"(?<=[\w,;'’\")] )[^\W\d_a-z][^\W_]*")  # a word with a capital inside a sentence


def same_question(one: str, other: str, answer: str, length: float | None = None) -> bool:
    """Return whether two prompts that have most words in common ask the same question, given the answer that both have.

    The texts are aligned, and what is left on each side decides: a number, a negation, a sign, a name or another word of
    content makes another question, on whichever side it is. Filler words and typing errors don't.

    Args:
        one, other: the prompts.
        answer: their common answer. A label may be right for two different questions; a long text hardly can, so in a long
            prompt with such an answer a few words may differ.
        length: words of the prompts without what all prompts share; by default all of their words.
    """
    if (CODE.search(one) or CODE.search(other)) and "".join(SYMBOL.findall(one)) != "".join(SYMBOL.findall(other)):
        return False  # if the question is what is wrong with some code, a semicolon matters
    words, other_words = _words(one), _words(other)
    if length is None:
        length = min(len(words), len(other_words))
    counts, other_counts = Counter(words), Counter(other_words)
    if max((counts - other_counts).total(), (other_counts - counts).total()) > TOO_MANY + len(words) // FREEDOM:
        return False
    only_one, only_other = _differences(words, other_words)
    left = only_one + only_other
    telling = any(DIGIT.search(word) or not word[0].isalnum() or word != word.lower() for word in left)
    if telling or _negated(only_one) != _negated(only_other):
        return False
    sides = [[word for word in side if word not in FILLER | NEGATIONS] for side in (only_one, only_other)]
    content = sides[0] + sides[1]
    if not content:
        return True
    informative = sum(word.isalnum() for word in _words(answer)) >= LABEL
    if length < PASSAGE or not informative or max(map(len, sides)) > min(FREE, length / FREEDOM):
        return False
    return not (_names(one) | _names(other)).intersection(content)


def same_answer(one: str, other: str) -> bool:
    """Return whether two answers say the same.

    They may differ in case, spacing and punctuation, long ones also in a typing error or filler words, and very long ones in
    a few words.
    """
    words, other_words = _words(one), _words(other)
    if words == other_words:
        return bool(words) or one.strip() == other.strip()
    return min(len(words), len(other_words)) >= LONG and same_question(one, other, one)


def _remainder(text: str, form: frozenset[int]) -> str:
    """A text without what many share; if that is most of it, without filler words too, for what is left is short."""
    words = without_form(text, form)
    if 2 * len(words) > len(normalise(text)):
        return words
    return " ".join(word for word in words.split() if word not in FILLER) or words


def _negated(words: Sequence[str]) -> bool:
    return sum(word in NEGATIONS for word in words) % 2 == 1


def _differences(words: Sequence[str], others: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that each of two texts has and the other lacks at that place, without typing errors."""
    start = next((i for i, (a, b) in enumerate(zip(words, others)) if a != b), min(len(words), len(others)))
    words, others = words[start:], others[start:]
    end = next((i for i, (a, b) in enumerate(zip(words[::-1], others[::-1])) if a != b), min(len(words), len(others)))
    words, others = words[: len(words) - end], others[: len(others) - end]
    if max(len(words), len(others)) > ALIGNED:
        counts, other_counts = Counter(words), Counter(others)
        return list((counts - other_counts).elements()), list((other_counts - counts).elements())
    only_one: list[str] = []
    only_other: list[str] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        if tag != "equal":
            left, right = _unpaired(list(words[a:b]), list(others[c:d]))
            only_one += left
            only_other += right
    return only_one, only_other


@functools.lru_cache(maxsize=4096)  # a row that is kept is compared with each of its copies
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(text).split())


def _names(text: str) -> set[str]:
    capitalised = NAME.findall(unicodedata.normalize("NFKC", text))
    return {word.lower() for word in capitalised if word != "I"} if len(capitalised) < 200 else set()


def _unpaired(only: list[str], lacking: list[str]) -> tuple[list[str], list[str]]:
    """The words on each side that are not a misspelling of a word on the other."""
    left, right = [], list(lacking)
    for word in only:
        twin = next((other for other in right if _is_slip(word, other)), None)
        if twin:
            right.remove(twin)
        else:
            left.append(word)
    return left, right


def _is_slip(one: str, other: str) -> bool:
    """Whether two words differ by one typing error: a letter added, lost or changed, or two swapped.

    Two common words are never the same: "form" and "from" are two words, "dinng" and "dining" are one. A plural counts as a
    typing error.
    """
    if min(len(one), len(other)) < 4 or one[0] != other[0] or abs(len(one) - len(other)) > 2:
        return False
    if DIGIT.search(one + other) or "ß" in one + other:
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


SIMILAR = 0.6  # Jaccard index from which two messages may be near-copies
FEW = 4  # a near copy of a prompt is compared with at most this many of the prompt's different answers


@dataclass(frozen=True)
class Conflict:
    """Rows that ask the same question and have different answers, of which one, several or none may be right.

    Attributes:
        members: indices of the rows, in order; none of them is a copy of another.
        preferred: the member with the most frequent answer (copies count); if several are equally frequent, the earliest.
    """

    members: tuple[int, ...]
    preferred: int


@dataclass(frozen=True)
class Deduplicated:
    """What `deduplicate` has found.

    Attributes:
        kept: indices of the rows to keep, in order.
        dropped: index of each dropped row → the kind of copy ("exact", "normalised" or "near"), and the row that
            is kept for it.
        similarities: index of each dropped row → Jaccard index of its prompt and the prompt of the kept row, from 0 to 1.
        conflicts: the rows that ask the same question and have different answers.
    """

    kept: list[int]
    dropped: dict[int, tuple[str, int]]
    similarities: dict[int, float] = field(repr=False)
    conflicts: list[Conflict] = field(repr=False)


def deduplicate(
    rows: Sequence[dict], threshold: float = SIMILAR, method: str = "auto", workers: int = 1, copies: str = NEAR
) -> Deduplicated:
    """Find rows that are the same example; the earliest of them is kept.

    What the user says is compared, without what many rows share (an instruction, a template), and the answers.

    Args:
        rows: chat rows, or other rows as `formats.as_chat` returns them.
        threshold: Jaccard index from which two prompts may be near-duplicates.
        method, workers: see `similarity.similar_pairs`.
        copies: which copies to find: "exact", "normalised" (exact ones, too) or "near" (all).
    """
    prompts, answers = [formats.prompt_of(row) for row in rows], [formats.answer_of(row) for row in rows]
    around = [surroundings(row) for row in rows]
    # Digests, because a second copy of every text would take more memory than anything else.
    exact = [digest(*row) for row in zip(prompts, answers, around)]
    if copies != EXACT:
        prompts = [without_letter(prompt) for prompt in prompts]
    compared = str if copies == EXACT else comparable
    prompt_keys = [digest(compared(prompt), a) for prompt, a in zip(prompts, around)]
    answer_keys = [digest(compared(answer)) for answer in answers]
    choice = _Choice(prompts, answers, prompt_keys, answer_keys, threshold)
    if copies == NEAR:
        choice.compare_answers()
        firsts = [next(iter(replies.values())) for replies in choice.firsts.values()]
        choice.form = shared_form([prompts[i] for i in firsts])
        remainder = functools.partial(_remainder, form=choice.form)
        remainders = list(in_processes(remainder, [prompts[i] for i in firsts], workers))
        similar = similar_pairs(remainders, threshold, method, workers)
        for i, j, similarity in sorted(similar, key=lambda pair: (pair[1], pair[0])):
            if around[firsts[i]] == around[firsts[j]]:
                choice.compare(prompt_keys[firsts[i]], prompt_keys[firsts[j]], similarity)
    dropped = {}
    for index, kept in sorted(choice.kept_for.items()):
        if kept in choice.kept_for:  # a normalised copy of a row that has itself been dropped goes with that row
            choice.similarities[index] = choice.similarities[kept]
            kept = choice.kept_for[kept]
        same = (prompt_keys[index], answer_keys[index]) == (prompt_keys[kept], answer_keys[kept])
        dropped[index] = (EXACT if exact[index] == exact[kept] else NORMALISED if same else NEAR, kept)
    copies_of = Counter(kept for _, kept in dropped.values())
    left = [i for i in range(len(rows)) if i not in dropped]
    return Deduplicated(left, dropped, choice.similarities, choice.conflicts(copies_of))


def without_letter(prompt: str) -> str:
    """Return a prompt without the greeting, the closing and the signature of a letter, if something is left."""
    text = FOOTER.sub("", re.sub(r"[ \t]+", " ", prompt))
    text = CLOSING.sub("", GREETING.sub("", text, count=1), count=1)
    return text if len(text.split()) >= FEW else FOOTER.sub("", prompt) or prompt


def surroundings(row: dict) -> bytes:
    """Return a digest of everything except the user's and the assistant's texts.

    It covers instructions, tools and their answers, pictures, and whether an answer is labelled as good.
    """
    parts: list[object] = [row[key] for key in ("tools", "label") if row.get(key) not in (None, [])]
    # "Mail" and " mail" are one label.
    parts = [" ".join(part.casefold().split()) if isinstance(part, str) else part for part in parts]
    for message in row["messages"]:
        content = message.get("content")
        if message["role"] not in ("user", "assistant"):
            parts.append([message["role"], content])
        elif isinstance(content, list):
            parts += [part for part in content if not (isinstance(part, dict) and part.get("type") == "text")]
    return digest(json.dumps(parts, sort_keys=True)) if parts else b""


def digest(*texts: str | bytes) -> bytes:
    """Return a digest of some texts together, of 16 bytes."""
    pieces = [text if isinstance(text, bytes) else text.encode("utf-8", "replace") for text in texts]
    return hashlib.blake2b(b"\0".join(pieces), digest_size=16).digest()


def comparable(text: str) -> str:
    """Return what is compared of a text: its words and signs; "???" has neither, so that the whole text is compared."""
    return normalise(text) or text


class Copies:
    """Copies among rows that come one by one, whose personal data are gone: two phone numbers no longer make two examples.

    Only rows whose answers agree are compared, so that it takes little time.
    """

    def __init__(self, copies: str = NEAR) -> None:
        self.copies = copies
        self.first: dict[bytes, int] = {}
        self.alike: dict[bytes, list[tuple[int, str]]] = {}

    def kept_for(self, index: int, row: dict) -> tuple[str, int] | None:
        """Return the kind of copy and the earlier row that a row is a copy of; None, and remember it, if there is none.

        Args:
            index: the row's index.
            row: a chat row, or another one as `formats.as_chat` returns it, with placeholders such as [NAME].
        """
        prompt, answer = formats.prompt_of(row), formats.answer_of(row)
        if self.copies != EXACT:
            # What is left is the same in any case: nothing that case tells apart is left to two people.
            prompt, answer = (PLACEHOLDER.sub(" ", text) for text in (without_letter(prompt), answer))
        keys = [t if self.copies == EXACT else comparable(t).casefold() for t in (prompt, answer)]
        around = surroundings(row)
        if (kept := self.first.setdefault(digest(*keys, around), index)) != index:
            return EXACT, kept
        if self.copies == NEAR and sum(word.isalnum() for word in keys[1].split()) >= LABEL:
            candidates = self.alike.setdefault(digest(keys[1], around), [])
            for kept, other in candidates:
                if jaccard(shingles(other), shingles(prompt)) >= SIMILAR and same_question(other, prompt, answer):
                    return NEAR, kept
            if len(candidates) < FEW:
                candidates.append((index, prompt))
        return None


class _Choice:
    """Which rows are dropped, each for which other row, and which questions are the same.

    Attributes:
        kept_for: row that is dropped → the row that is kept for it.
        similarities: row that is dropped → Jaccard index of its prompt and that of the kept row.
    """

    def __init__(
        self, prompts: list[str], answers: list[str], prompt_keys: list[bytes], answer_keys: list[bytes], threshold: float
    ) -> None:
        self.prompts, self.answers, self.threshold = prompts, answers, threshold
        self.form: frozenset[int] = frozenset()
        self.kept_for: dict[int, int] = {}
        self.alike = Groups(len(prompts))
        self.firsts: dict[bytes, dict[bytes, int]] = {}  # prompt → answer → the first row that has both
        for index, (prompt, answer) in enumerate(zip(prompt_keys, answer_keys)):
            first = self.firsts.setdefault(prompt, {}).setdefault(answer, index)
            if first != index:
                self.kept_for[index] = first
        self.similarities = dict.fromkeys(self.kept_for, 1.0)

    def compare_answers(self) -> None:
        """Find the near-copies among the rows of one prompt: answers that say the same with a typing error."""
        for rows in self.firsts.values():
            different: list[int] = []
            for index in rows.values():
                kept = next((i for i in different[:FEW] if same_answer(self.answers[i], self.answers[index])), None)
                if kept is None:
                    different.append(index)
                else:
                    self.kept_for[index], self.similarities[index] = kept, 1.0

    def compare(self, one: bytes, other: bytes, similarity: float) -> None:
        """Compare the rows of two near-duplicate prompts: copies where the answers agree, conflicts where they do not."""
        ones, others = sorted((self.firsts[one], self.firsts[other]), key=lambda rows: next(iter(rows.values())))
        first_few = list(ones.values())[:FEW]
        for answer, index in others.items():
            if index in self.kept_for:
                continue
            for candidate in [ones[answer]] if answer in ones else first_few:
                kept = self.kept_for.get(candidate, candidate)
                if kept >= index:
                    continue
                # The candidate's similarity says nothing about the row that is kept in its place.
                score = similarity if kept == candidate else self._similarity(kept, index)
                if score < self.threshold:
                    continue
                if self._are_copies(kept, index):
                    self.kept_for[index], self.similarities[index] = kept, score
                    break
                # Compared with the first row of its group too: by way of others, any two questions would become the same.
                first = self.alike.find(kept)
                if self.alike.find(index) == index and all(self._ask_the_same(row, index) for row in {kept, first}):
                    self.alike.join(first, index)

    def conflicts(self, copies: Counter[int]) -> list[Conflict]:
        """Return the groups of rows that ask the same question and are all kept, given the number of copies of each row."""
        for replies in self.firsts.values():
            first, *others = replies.values()
            for other in others:
                self.alike.join(first, other)
        groups = [[i for i in group if i not in self.kept_for] for group in self.alike.members()]
        return [
            Conflict(tuple(members), max(members, key=lambda i: (copies[i], -i))) for members in groups if len(members) > 1
        ]

    def _similarity(self, one: int, other: int) -> float:
        """Jaccard index of two rows' prompts without what many of them share."""
        return jaccard(*(shingles(_remainder(self.prompts[index], self.form)) for index in (one, other)))

    def _are_copies(self, one: int, other: int) -> bool:
        """Whether two rows with similar prompts are the same example."""
        answer, mine, theirs = self.answers[one], self.prompts[one], self.prompts[other]
        if not same_answer(answer, self.answers[other]):
            return False
        length = min(len(without_form(text, self.form).split()) for text in (mine, theirs))
        return same_question(mine, theirs, answer, length)

    def _ask_the_same(self, one: int, other: int) -> bool:
        """Whether two similar prompts ask the same question, whatever their answers."""
        return same_question(self.prompts[one], self.prompts[other], "")


def contradictions(rows: Sequence[dict]) -> list[Conflict]:
    """Find judgements that contradict each other: an answer labelled good and bad, or a pair of answers in both orders.

    Args:
        rows: preferences or labelled answers, as `formats.as_chat` returns them.
    """
    verdicts: dict[tuple, dict[object, list[int]]] = {}
    for index, row in enumerate(rows):
        answers = [comparable(formats.answer_of({"messages": [m]})) for m in row["messages"] if m["role"] == "assistant"]
        verdict = row["label"] if "label" in row else answers == sorted(answers)
        verdicts.setdefault((comparable(formats.prompt_of(row)), *sorted(answers)), {}).setdefault(verdict, []).append(index)
    conflicts = []
    for sides in verdicts.values():
        if len(sides) > 1:
            preferred = max(sides.values(), key=lambda members: (len(members), -members[0]))[0]
            conflicts.append(Conflict(tuple(sorted(i for members in sides.values() for i in members)), preferred))
    return conflicts
