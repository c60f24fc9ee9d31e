"""Which texts are nearly the same? Two methods that can check each other.

Two texts are compared by the Jaccard index of their shingles, here single words and pairs of neighbouring words: of all
shingles in the two texts, the share that they have in common. The method "exact" counts what each pair shares; "minhash"
(Broder 1997) finds nearly all pairs, in memory that does not grow with the length of the texts.
"""

from __future__ import annotations

import functools
import multiprocessing
import re
import string
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import numpy as np

PERMUTATIONS = 128
ROWS_PER_BAND = 4  # 32 bands: the probability of finding a pair is 0.988 at a Jaccard index of 0.6, and 0.9998 at 0.7
# Neighbouring words belong to the form of a set of texts, such as an instruction, if this share and this number have them.
FORM_SHARE, FORM_TEXTS = 0.05, 10
FORM_SAMPLE = 5_000
EXACT_UP_TO = 4_000  # texts; with more, similar texts make time and memory grow with the square of their number
# Chinese, Japanese kana and Thai put no spaces between words: each of their characters counts as a word.
_ALONE = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Signs that carry meaning: currencies, mathematics, emoji; # in "C#", and - * / as operators or before a number.
_SIGNS = re.escape("".join(c for c in map(chr, (*range(0x3000), *range(0x1F000, 0x1FB00)))
                           if unicodedata.category(c) in ("Sc", "Sm", "So") and c not in "|~") + "%")  # fmt: skip
# Each alternative begins with what it matches, because that is tried fast.
_OPERATORS = r"#(?<=[^\W\d_]#)|[-−](?=\d)(?<![\w-].)|[-*/](?=\d)(?<=\d.)|[-*/](?= ?\d)(?<=\d .)"
_OFTEN = r"""\s.,;:'’"“”()!?_"""  # no signs; excluded first, because the list of signs is long
WORD = re.compile(rf"[{_ALONE}]|[^\W{_ALONE}]+|(?![{_OFTEN}])(?:[{_SIGNS}]|{_OPERATORS})")
PLAIN = re.compile(rf"\w+|[$+<=>%]|{_OPERATORS}")
# Where case carries meaning: calls and names in code; unless all is in capitals or titles, also single letters that begin no
# sentence, and after a number a letter or a unit that is another one in the other case (mJ and MJ, Mb and MB).
_CODE = r"(?<!\S)(?!\S*@)\S*\w(?:\((?!(?:e?[snr]|e|in)\))[^\s()]*\)|_\w)\S*"
_LETTER = r"[A-HJ-ZÀ-Þ](?![\w'’])(?<![\w'’.\n].)(?<![.!?:;] .)(?!(?<=\A.)\s)"
_UNIT = (
    r"(?:[ \u00a0](?<=\d.)(?:[A-Z]|[MGTKk]b|[mp](?!Ah|L)[A-Z][a-z]?)"
    r"|[A-ZMGTKkmp](?<=\d.)(?:(?<=[A-Z])|(?<=[MGTKk])b|(?<=[mp])(?!Ah|L)[A-Z][a-z]?))(?!\w)"
)
CASED = re.compile(rf"({_LETTER}|{_UNIT})")
CASED_IN_CODE = re.compile(rf"({_CODE}|{_LETTER}|{_UNIT})")
SHOUTED_CASED = re.compile(
    rf"({_CODE}|(?:(?<![\w'’.])|(?<=\d))[B-DF-HJ-NP-TVX](?![\w'’.]))"
)  # letters that are no word: "PLAN B"
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
CAPITALS, LETTERS = string.ascii_uppercase.encode(), string.ascii_letters.encode()
WITHOUT_SPACES = re.compile(rf"[{_ALONE}]")
Item = TypeVar("Item")
Result = TypeVar("Result")
_random = np.random.default_rng(1997)
_MULTIPLIERS = _random.integers(0, 2**63, (PERMUTATIONS, 1), dtype=np.uint64) | np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, (PERMUTATIONS, 1), dtype=np.uint64)


@functools.lru_cache(maxsize=4096)  # each text of a pair is compared in several ways
def normalise(text: str) -> str:
    """Return a text without what copies of the same message may differ in.

    That is case, width, the encoding of accents, punctuation and spacing. Signs that carry meaning count as words, and case
    stays where it carries meaning: in code, units (mJ, MJ), and single letters (the notes C and c).
    """
    word, text = (PLAIN, text) if text.isascii() else (WORD, unicodedata.normalize("NFKC", text))
    code = "(" in text or "_" in text
    pieces = (SHOUTED_CASED if _is_shouted(text) else CASED_IN_CODE if code else CASED).split(text)
    pieces = ["", text] if text.isupper() and len(text.strip()) < 3 else pieces  # "US" alone
    return " ".join(word.findall("".join(piece if i % 2 else piece.lower() for i, piece in enumerate(pieces))))


def _is_shouted(text: str) -> bool:
    """Whether a text is a title, or more than four of five of its letters are capitals."""
    ascii_part, rest = text.encode("ascii", "ignore"), "".join(NOT_ASCII.findall(text))  # counting in bytes takes no time
    capitals = len(ascii_part) - len(ascii_part.translate(None, CAPITALS)) + sum(map(str.isupper, rest))
    letters = len(ascii_part) - len(ascii_part.translate(None, LETTERS)) + sum(map(str.isalpha, rest))
    return text.istitle() or capitals > 0.8 * letters


def shingles(text: str) -> np.ndarray:
    """Return the set of a text's words and pairs of neighbouring words, as sorted 32-bit hashes."""
    words = _word_hashes(text)
    pairs = (words[:-1] * np.uint64(2654435761) + words[1:] * np.uint64(40503) + np.uint64(1)) & np.uint64(0xFFFFFFFF)
    return np.unique(np.concatenate([words, pairs]).astype(np.uint32))


def shared_form(texts: Sequence[str]) -> frozenset[int]:
    """Return the triples of neighbouring words that many different texts have in common: an instruction, a template.

    Of more than 5,000 texts, as many at equal distances are looked at. The triples are returned as hashes; beginning and end
    of a text count as words.
    """
    different = list(dict.fromkeys(texts))
    sample = different[:: max(1, len(different) // FORM_SAMPLE)]
    triples = [np.unique(_triples(_word_hashes(text))) for text in sample]
    if not triples:
        return frozenset()
    found, counts = np.unique(np.concatenate(triples), return_counts=True)
    return frozenset(found[counts >= max(FORM_TEXTS, FORM_SHARE * len(sample))].tolist())


def without_form(text: str, form: frozenset[int]) -> str:
    """Return the words of a text that are in no triple of `form` (see `shared_form`), or all words if none is left."""
    words = normalise(text).split()
    common = [False] * (len(words) + 4)
    for start, triple in enumerate(_triples(_word_hashes(text)).tolist()):
        if triple in form:
            common[start : start + 3] = [True] * 3
    common = common[2 : len(words) + 2]
    return " ".join(word for word, shared in zip(words, common) if not shared) or " ".join(words)


def _word_hashes(text: str) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in normalise(text).split()], dtype=np.uint64)


def _triples(words: np.ndarray) -> np.ndarray:
    padded = np.concatenate([[1, 2], words, [3, 4]]).astype(np.uint64)
    return padded[:-2] * np.uint64(2654435761) + padded[1:-1] * np.uint64(40503) + padded[2:]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Return the size of the intersection divided by that of the union; 0 for two empty sets, which give no evidence.

    Args:
        one, other: sets of shingles, as `shingles` returns them.
    """
    shared = np.intersect1d(one, other, assume_unique=True).size
    union = one.size + other.size - shared
    return shared / union if union else 0.0


def text_signature(text: str) -> np.ndarray:
    """Return the MinHash signature of a text's shingles.

    It has, for each of 128 random orders of all shingles, the first one that is in the set. The share of positions in which
    two signatures agree estimates the Jaccard index, with a standard deviation of at most 0.045.

    Returns:
        An array of uint32 of shape (128,).
    """
    shingle_set = shingles(text)
    if not shingle_set.size:
        return np.zeros(PERMUTATIONS, dtype=np.uint32)
    # Multiply and shift (Dietzfelbinger et al. 1997): the upper half of a 64-bit product is a good hash.
    return ((shingle_set.astype(np.uint64)[None] * _MULTIPLIERS + _OFFSETS) >> np.uint64(32)).min(1).astype(np.uint32)


def similar_pairs(
    texts: Sequence[str], threshold: float, method: str = "auto", workers: int = 1
) -> list[tuple[int, int, float]]:
    """Find the pairs of texts whose Jaccard index is at least `threshold`.

    Args:
        texts: any texts.
        threshold: Jaccard index between 0 and 1.
        method: "exact" finds all pairs; "minhash" may miss some near the threshold, and compares a text with only a few from
            a large group of similar ones, which is enough to identify the group; "auto" is exact up to 4,000 texts.
        workers: number of processes that compute signatures.

    Returns:
        The pairs as (i, j, index) with i < j.
    """
    if method == "auto":
        method = "exact" if len(texts) <= EXACT_UP_TO else "minhash"
    if method == "exact":
        return _all_pairs([shingles(text) for text in texts], threshold)
    signatures = np.array(list(in_processes(text_signature, texts, workers))).reshape(-1, PERMUTATIONS)
    # Shingles take more memory than texts, so those of the few candidates are computed again.
    members = functools.lru_cache(maxsize=10_000)(lambda i: shingles(texts[i]))
    pairs = ((i, j, jaccard(members(i), members(j))) for i, j in _banded(signatures))
    return [(i, j, index) for i, j, index in pairs if index >= threshold]


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, chunk: int = 256
) -> Iterator[Result]:
    """Yield the results of a module-level function on items, in order, computed by several processes.

    A script that uses more than one process needs `if __name__ == "__main__":`, as always in Python.

    Raises:
        BrokenProcessPool: a process died, or the script does not have that line.
    """
    if workers <= 1 or len(items) < 2 * chunk:
        yield from map(function, items)
        return
    # This process is not forked: a fork keeps a copy of every row that this process replaces, which doubles the memory, and
    # it may inherit a lock held by one of torch's threads, which nobody will ever release.
    start_method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, multiprocessing.get_context(start_method)) as pool:
        yield from pool.map(function, items, chunksize=chunk)


def _banded(signatures: np.ndarray) -> list[tuple[int, int]]:
    """The pairs that agree in all positions of a band: each text with the first of its group and with the one before it."""
    pairs: set[tuple[int, int]] = set()
    for start in range(0, PERMUTATIONS, ROWS_PER_BAND):
        first: dict[bytes, int] = {}
        before: dict[bytes, int] = {}
        for index, band in enumerate(map(bytes, signatures[:, start : start + ROWS_PER_BAND])):
            pairs |= {(first.setdefault(band, index), index), (before.get(band, index), index)}
            before[band] = index
    return sorted((i, j) for i, j in pairs if i < j)


def _all_pairs(sets: list[np.ndarray], threshold: float) -> list[tuple[int, int, float]]:
    """All pairs that reach the threshold, by the sizes of all intersections."""
    from scipy.sparse import csr_matrix

    sizes = np.array([one.size for one in sets])
    if not sizes.any():
        return []
    _, columns = np.unique(np.concatenate(sets), return_inverse=True)
    owners = np.repeat(np.arange(len(sets)), sizes)
    incidence = csr_matrix((np.ones(owners.size, np.int32), (owners, columns)))
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(sets), 500):  # some at a time, so that memory does not grow with the square of their number
        shared = (incidence[start : start + 500] @ incidence.T).tocoo()
        i, j = shared.row + start, shared.col
        index = shared.data / (sizes[i] + sizes[j] - shared.data)
        found = (i < j) & (index >= threshold)
        pairs += zip(i[found].tolist(), j[found].tolist(), index[found].tolist())
    return sorted(pairs)


class Groups:
    """Says which of n items belong together, directly or through others (union-find)."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        """Return the representative of an item's group, which is its smallest member."""
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join_equal(self, keys: Iterable) -> None:
        """Merge the groups of items that have the same key; None is no key."""
        first: dict = {}
        for index, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, index), index)

    def join(self, i: int, j: int) -> None:
        """Merge the groups of two items."""
        one, other = sorted((self.find(i), self.find(j)))
        self.parent[other] = one

    def members(self) -> list[list[int]]:
        """Return all groups, each with its members in order."""
        groups: dict[int, list[int]] = {}
        for i in range(len(self.parent)):
            groups.setdefault(self.find(i), []).append(i)
        return list(groups.values())
