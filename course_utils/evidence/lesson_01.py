"""What lesson 01 shows beside its own run: the recorded rivals, arithmetic on dated prices, and measurements of others.

The rivals (`benchmarks/framework.py`) are the CPU tier's model asked in every way that the lesson knows; what is trained was
trained with three seeds.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from course_utils import assets, charts, costs, evaluation, facts
from course_utils.show.tables import Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.data_prep.catalogue import Catalogue
    from course_utils.evaluation import Score
    from course_utils.figures import Figure

MISSING = "not recorded yet"
FACT, RECORD, FORM, BOTH = "right fact", "right record", "valid form", "usable"
SIDES = {FACT: "knowledge", RECORD: "behaviour", FORM: "valid"}
# As the lesson calls them → as the benchmark does.
SYSTEMS = {
    "message alone": "prompt: zero-shot",
    "instructions": "prompt: instructions",
    "instructions and three examples": "prompt: few-shot",
    "three examples, structured output": "prompt: few-shot, structured",
    "retrieved examples": "prompt: retrieved examples",
    "RAG, asked for the fact alone": "RAG",
    "RAG, asked for the record": "RAG: few-shot",
    "RAG, record, structured output": "RAG: few-shot, structured",
    "RAG, retrieved examples": "RAG: retrieved examples",
    "RAG, examples about other facts": "RAG: retrieved examples of other facts",
    "whole catalogue in the prompt": "whole catalogue",
    "fine-tuned": "fine-tuned",
    "fine-tuned + RAG": "fine-tuned + RAG",
    "fine-tuned + RAG, products it never saw": "fine-tuned + RAG, unseen products",
}
UNSEEN = "fine-tuned + RAG, products it never saw"
RETRIEVED_EXAMPLES = 3
CAUSES = ("knowledge", "retrieval", "behaviour", "format")


# -- the recorded rivals ----------------------------------------------------------------------------------------------------


def recorded(part: str = "seeds") -> str:
    """The day on which a part of the record was measured: parts may have been taken over from an older one."""
    older = assets.read_record("framework").get("taken_over", {"parts": []})
    return str(older["date"] if part in older["parts"] else assets.read_record("framework")["date"])


def _rights(system: str, kind: str) -> list[list[float]]:
    """For each seed, whether each question was answered rightly; systems as `SYSTEMS` names them on either side."""
    results = assets.read_record("framework")["seeds"][SYSTEMS.get(system, system)]
    if kind in SIDES:
        return results[SIDES[kind]]
    return [[a * b for a, b in zip(*pair)] for pair in zip(results["knowledge"], results["behaviour"])]


def scores(system: str, kinds: Sequence[str] = (FACT, FORM, RECORD, BOTH)) -> dict[str, Score]:
    """Return kind of share → score over the seeds."""
    return {kind: evaluation.over_seeds(_rights(system, kind)) for kind in kinds}


def score(system: str, kind: str) -> Score:
    """One of `scores`, of a system that is recorded."""
    return scores(system, (kind,))[kind]


def percent(share: Score) -> str:
    """A score as the lesson's sentences write it: "35 %"."""
    return f"{100 * share.value:.0f} %"


def picture() -> Figure:
    """Five ways to ask the same model, by what is right in the answer: the lesson in one figure."""
    names = ("instructions and three examples", "RAG, asked for the fact alone", "RAG, retrieved examples", "fine-tuned",
             "fine-tuned + RAG")  # fmt: skip
    rows = {name: scores(name, (FACT, RECORD, BOTH)) for name in names}
    return charts.shares(rows, f"The same small model, asked in five ways (recorded {recorded()})")


def difference(better: str, worse: str, kind: str = BOTH) -> Score:
    """How much more often one recorded system is right than another, question by question, over the mean of its seeds.

    Two intervals that meet do not say that two systems are equal: most of their width is the questions', which both share.
    """

    means = [[statistics.mean(column) for column in zip(*_rights(system, kind))] for system in (better, worse)]
    return evaluation.mean([a - b for a, b in zip(*means)])


def differences() -> Table:
    """`difference` of trained models that read to their nearest relatives."""
    best, rows = "fine-tuned + RAG", {}
    pairs = [(best, "RAG, retrieved examples", BOTH), (best, "RAG, asked for the fact alone", FACT),
             (UNSEEN, "RAG, asked for the fact alone", FACT), (UNSEEN, "RAG, examples about other facts", BOTH),
             (UNSEEN, best, BOTH)]  # fmt: skip
    for one, other, kind in pairs:
        gap = difference(one, other, kind)
        points = f"{100 * gap.value:+.0f} ({100 * gap.low:+.0f} to {100 * gap.high:+.0f})"
        rows[f"{one} against {other}"] = {"share": kind, "points more (95 % interval)": points}
    return Table(rows, "The same 100 questions, compared one by one", "systems", "")


def rivals_figure(names: Sequence[str], title: str, kinds: Sequence[str] = (FACT, FORM, RECORD, BOTH)) -> Figure:
    """Some of the recorded systems, by kind of share."""
    return charts.shares({name: scores(name, kinds) for name in names}, title)


def rivals(tokens: Mapping[str, float]) -> Table:
    """All rivals: quality and form of the small model, tokens, and what a hosted 8B would charge for as many.

    Args:
        tokens: mean length of each system's prompt, by `token_counts`.
    """
    rows = {}
    for name in SYSTEMS:
        price = 1000 * _request(tokens[name], tokens.get(f"fixed: {name}", 0.0))
        rows[name] = scores(name) | {
            "tokens in": round(tokens[name]),
            "$ per 1,000, at an 8B's price": f"{price:.3f}",
        }
    small = costs.price_of(costs.Assumptions().small)
    caption = (
        f"Recorded {assets.read_record('framework')['date']}, 100 questions; trained ones: mean of {len(assets.read_record('framework')['training_seconds'])} seeds. Price: "
        f"{costs.Assumptions().small} of {small.date}, fixed beginnings of {small.cache_from:,} tokens or more from the cache"
    )
    return Table(rows, caption, "system", "fine-tuned + RAG")


def _request(prompt_tokens: float, fixed: float, model: str = "", answer_tokens: float = 25) -> float:
    """Dollars for a request whose first `fixed` tokens are the same each time, and cached if there are enough of them."""
    model = model or costs.Assumptions().small
    cached = fixed if fixed >= costs.price_of(model).cache_from else 0
    return costs.request_cost(prompt_tokens, answer_tokens, model, cached)


# -- the rivals' prompts, for the benchmark and for the lesson ----------------------------------------------------------------


def prompts(system: str, catalogue: Catalogue, questions: Sequence[Mapping], version: int = 1) -> list[list[dict]]:
    """The prompts of a system, as the benchmark names it, for some questions.

    Systems that are trained get the message alone, or with the passage; those with structured output get the same prompt as
    those without.
    """
    passages = found_passages(catalogue, questions, version) if "RAG" in system else [list[Mapping]() for _ in questions]
    if system == "RAG":
        return [catalogue.prompt_for_fact(q["question"], context[0]) for q, context in zip(questions, passages)]
    if system == "whole catalogue":
        return [whole_catalogue_prompt(catalogue, q["question"], version) for q in questions]
    if "retrieved examples" in system:
        shown = nearest_examples(catalogue, questions, other_facts=system.endswith("of other facts"))
        return [
            _with_retrieved_examples(catalogue, q, context, examples)
            for q, context, examples in zip(questions, passages, shown)
        ]
    how = {"instructions": True} if "instructions" in system else {"few_shot": True} if "few-shot" in system else {}
    return [catalogue.prompt(q["question"], context, **how) for q, context in zip(questions, passages)]


def found_passages(catalogue: Catalogue, questions: Sequence[Mapping], version: int = 1) -> list[list[Mapping]]:
    """For each question the first passage that dense retrieval finds, as a list of one."""
    from course_utils.retrieval import Retriever

    hits = Retriever(catalogue.versions[version], "dense").search_all([q["question"] for q in questions], 1)
    return [[hit.passage for hit in question_hits] for question_hits in hits]


def nearest_examples(
    catalogue: Catalogue, questions: Sequence[Mapping], k: int = RETRIEVED_EXAMPLES, other_facts: bool = False
) -> list[list[Mapping]]:
    """For each question the training questions with the nearest wording, nearest last.

    Args:
        catalogue: with the training questions.
        questions: of the test.
        k: examples for each.
        other_facts: leave out the wordings of the fact that is asked for; else they may be among the examples.
    """
    from course_utils.retrieval import Retriever

    rows = [{"id": str(number), "text": row["question"]} for number, row in enumerate(catalogue.training)]
    wordings = max(Counter(row["question_id"] for row in catalogue.training).values())
    hits = Retriever(rows, "dense").search_all([q["question"] for q in questions], k + wordings)
    neighbours: list[list[Mapping]] = [[catalogue.training[int(hit.id)] for hit in nearest] for nearest in hits]
    if other_facts:
        neighbours = [[row for row in near if row["question_id"] != q["id"]] for q, near in zip(questions, neighbours)]
    return [near[:k][::-1] for near in neighbours]


def _with_retrieved_examples(
    catalogue: Catalogue, question: Mapping, passages: Sequence[Mapping], examples: Sequence[Mapping]
) -> list[dict]:
    system, *_, user_message = catalogue.prompt(question["question"], passages, instructions=True)
    by_id = {p["id"]: p for p in catalogue.versions[1]}
    passage_of = {q["id"]: by_id[q["passage"]] for q in catalogue.questions}
    shown = []
    for row in examples:
        shown += catalogue.example(row, [passage_of[row["question_id"]]] if passages else ())[1:]
    return [system, *shown, user_message]


def training_examples(catalogue: Catalogue, left_out: Collection[str] = ()) -> tuple[list[list[dict]], list[list[dict]]]:
    """What the lesson trains on, in wordings that the test does not have.

    Args:
        catalogue: with the training questions.
        left_out: ids of questions whose facts are not trained on.

    Returns:
        each fact once without a passage; three facts of five once more, in another wording and with the passage before it.
    """
    wordings: dict[str, list[dict]] = {}
    for row in catalogue.training:
        if row["question_id"] not in left_out:
            wordings.setdefault(row["question_id"], []).append(row)
    by_id = {p["id"]: p for p in catalogue.versions[1]}
    passage_of = {q["id"]: by_id[q["passage"]] for q in catalogue.questions}
    alone = [catalogue.example(rows[0]) for rows in wordings.values()]
    ids_with_passage = [id for number, id in enumerate(wordings) if number % 5 < 3]
    return alone, [catalogue.example(wordings[id][2], [passage_of[id]]) for id in ids_with_passage]


def whole_catalogue_prompt(catalogue: Catalogue, question: str, version: int = 1) -> list[dict]:
    """Instructions, three examples and all passages before the question; all but the question is the same each time."""
    messages = catalogue.prompt(question, few_shot=True)
    listing = "\n".join(f"{p['title']}. {p['text']}" for p in catalogue.versions[version])
    first = {"role": "system", "content": f"{messages[0]['content']}\n\nThe shop's catalogue:\n{listing}"}
    return [first, *messages[1:]]


def token_counts(tokenizer: PreTrainedTokenizerBase, catalogue: Catalogue) -> dict[str, float]:
    """System → mean tokens of its prompt; "fixed: SYSTEM" → how many at its beginning are the same in every prompt."""
    questions = catalogue.questions[::5]
    counts: dict[str, float] = {}
    for name, key in SYSTEMS.items():
        encoded = [
            tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
            for prompt in prompts(key, catalogue, questions[:4] if key == "whole catalogue" else questions)
        ]
        counts[name] = statistics.mean(map(len, encoded))
        counts[f"fixed: {name}"] = next(i for i, column in enumerate(zip(*encoded)) if len(set(column)) > 1)
    return counts


# -- looking at errors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrongAnswer:
    """A recorded wrong answer, with all that is needed to say why it is wrong.

    Attributes:
        question: the customer's message.
        shown: title of the passage that was shown; None if there was none.
        needed: title of the passage that holds the fact.
        answer: what the model wrote.
        record: the right record.
        content_right: whether fact, topic and product are right, in whatever form.
        form_right: whether the answer is a valid record.
    """

    question: str
    shown: str | None
    needed: str
    answer: str
    record: Mapping[str, Any]
    content_right: bool
    form_right: bool

    @property
    def cause(self) -> str:
        """The first link of the chain that broke."""
        if self.shown is None:
            return "knowledge"
        if self.shown != self.needed:
            return "retrieval"
        return "format" if self.content_right else "behaviour"


def _labels_right(answer: str, right: Mapping[str, Any]) -> bool:
    """Whether topic and product are right; prose has neither, so that they cannot be wrong."""
    try:
        written = json.loads(answer)
    except ValueError:
        return True
    return isinstance(written, dict) and all(written.get(name) == right[name] for name in ("topic", "product"))


def _is_a_range(answer: str, fact: str) -> bool:
    """Whether the fact is only one end of a range that the answer gives: "£6.85 to £10.00" is not £6.85."""
    return re.search(rf"{re.escape(fact)}\s*(?:to|or|-|–)\s*£?\d", answer) is not None


def _has_its_numbers(answer: str, fact: str) -> bool:
    """Whether the answer has every number of the fact, such as "14" of "notch 14"; False if the fact has none."""
    numbers = re.findall(r"\d+", fact)
    return bool(numbers) and set(numbers) <= set(re.findall(r"\d+", answer))


@cache
def wrong_answers(number: int = 20) -> tuple[WrongAnswer, ...]:
    """Recorded wrong answers (`benchmarks/wrong_answers.py`), those of different causes mixed, the same each time."""
    import random

    from course_utils.data_prep import load_catalogue

    catalogue = load_catalogue()
    questions = {q["id"]: q for q in catalogue.questions}
    titles = {p["id"]: p["title"] for p in catalogue.versions[1]}
    candidates = []
    for row in assets.read_record("wrong-answers")["answers"]:
        question = questions[row["question"]]
        quality = catalogue.evaluate([row["answer"]], [question])
        valid, behaves, knows = quality.rows[0]
        right = catalogue.record(question)
        if (behaves and knows) or (not knows and _has_its_numbers(row["answer"], right["answer"])):
            continue  # "14" for "notch 14": whether that is wrong is a matter of taste, and not what the cards are about
        content = knows and _labels_right(row["answer"], right) and not _is_a_range(row["answer"], right["answer"])
        shown = None if row["passage"] is None else titles[row["passage"]]
        needed = titles[question["passage"]]
        candidates.append(WrongAnswer(question["question"], shown, needed, row["answer"], right, content, valid))
    chosen: list[WrongAnswer] = []
    while len(chosen) < min(number, len(candidates)):  # in turn from each cause, as far as there are any
        for cause in CAUSES:
            remaining = [w for w in candidates if w.cause == cause and w not in chosen]
            if remaining and len(chosen) < number:
                chosen.append(remaining[0])
    random.Random(1).shuffle(chosen)
    return tuple(chosen)


def causes_table(answers: Sequence[WrongAnswer]) -> Table:
    """How many wrong answers have which cause, and what one does about it."""
    cure = {
        "knowledge": "show the facts: retrieval, or all of them in the prompt",
        "retrieval": "search better: another index, more hits, a reranker",
        "behaviour": "a better prompt, then fine-tuning",
        "format": "structured output",
    }
    rows = {c: {"answers": sum(w.cause == c for w in answers), "what to try": cure[c]} for c in CAUSES}
    return Table(rows, f"{len(answers)} wrong answers, by the first thing that went wrong", "cause", "")


# -- facts that change --------------------------------------------------------------------------------------------------------


def changes_figure() -> Figure:
    """Facts before and after the catalogue changed: learned by heart, and read from a passage."""
    from course_utils.data_prep import load_catalogue

    results = assets.read_record("framework")
    changed = [number for number, q in enumerate(load_catalogue().questions) if q["answer_v2"] is not None]
    read_before = [[row[i] for i in changed] for row in results["seeds"]["fine-tuned + RAG"]["knowledge"]]
    read_after = results["after_update"]["RAG + fine-tuned, version 2"]
    answers = {
        "learned by heart": (results["drilled"]["version 1"], results["drilled"]["version 2"]),
        "trained to read, with a new index": (read_before, read_after),
    }
    whens = ("before the change", "after it")
    rows = {name: {when: evaluation.over_seeds(a) for when, a in zip(whens, both)} for name, both in answers.items()}
    return charts.shares(rows, f"{len(changed)} facts, right by the catalogue of the day")


def stale_share() -> float:
    """Of the changed facts, the share that a model still answers with the old one after learning them by heart."""
    drilled = assets.read_record("framework")["drilled"]
    return statistics.mean(drilled["stale"]) / len(drilled["version 2"][0])


def _part(part: str, names: Mapping[str, str]) -> dict[int, dict[str, Score]]:
    """A part of the record by its numbers: name → score over the seeds, for name → key."""
    rows = assets.read_record("framework")[part].items()
    return {int(n): {name: evaluation.over_seeds(row[key]) for name, key in names.items()} for n, row in rows}


def passes() -> dict[int, dict[str, Score]]:
    """Passes over each fact → shares right in the trained wordings and in others, and of changed facts the old answer."""
    names = {"in the trained wordings": "trained on", "in other wordings": "test",
             "of facts that then change: the old one": "stale"}  # fmt: skip
    return {3 * epochs: row for epochs, row in _part("sweep", names).items()}


def passes_table() -> Table:
    """`passes` as a table."""
    rows = {f"{number} passes": dict(row) for number, row in passes().items()}
    return Table(rows, f"100 facts learned by heart, recorded {recorded('sweep')}, one run", "training", "")


# -- how many examples --------------------------------------------------------------------------------------------------------


def sizes() -> dict[int, dict[str, Score]]:
    """Number of training examples → right records on them and on others, and valid form on others."""
    return _part("sizes", {"on its own examples": "trained on", "on others": "test", "valid form on others": "valid"})


def sizes_figure() -> Figure:
    """`sizes` as a figure."""
    rows = {f"{number} examples": row for number, row in sizes().items()}
    return charts.shares(rows, "Few examples teach the form at once, the judgement slowly")


# -- money --------------------------------------------------------------------------------------------------------------------


def assumptions(tokens: Mapping[str, float], **changed: Any) -> costs.Assumptions:
    """The lesson's assumptions, with the tokens as counted.

    Args:
        tokens: of `token_counts`.
        changed: fields of `costs.Assumptions` that you see differently.
    """
    message = tokens["message alone"]
    more = {"instructions": "instructions and three examples", "passages": "fine-tuned + RAG"}
    counted = {field: round(tokens[system] - message) for field, system in more.items()}
    return costs.Assumptions(**({"message": round(message), "completion": 25} | counted | changed))


class _Linked(Table):
    """A table whose addresses can be followed, and wrap where the column is narrow."""

    def _repr_html_(self) -> str:
        def link(match: re.Match[str]) -> str:
            address = match[0].replace("/", "/<wbr>")
            return f'<a href="https://{match[0]}" style="overflow-wrap:anywhere;text-decoration:underline">{address}</a>'

        def links(text: re.Match[str]) -> str:
            return re.sub(r"\b[a-z.]+\.(?:com|dev)/[\w./-]+", link, text[0])

        return re.sub(r">[^<]+<", links, super()._repr_html_())  # in what is read, not in the attributes


def _exact(dollars: float | None) -> str | None:
    """A price as its source has it, with two decimals or more: the lesson computes with what the table shows."""
    if dollars is None:
        return None
    return max(f"{dollars:.2f}", f"{dollars:g}", key=len)


def prices() -> Table:
    """All prices that the lesson computes with: dollars per million tokens, with date, source, and whether new jobs are taken."""
    rows = {}
    for name, price in (costs.FRONTIER | costs.PRICES).items():
        closed = costs.NO_NEW_JOBS.get(name)
        rows[name] = {
            "input": _exact(price.input), "from the cache": _exact(price.cached_input), "output": _exact(price.output),
            "tuning": _exact(price.training),
            "new tuning jobs": "no tuning" if price.training is None else
            f"none from {closed[0]}; none for new customers since {closed[1]}" if closed else "yes",
            "read": price.date, "source": price.source,
        }  # fmt: skip
    return _Linked(rows, "US dollars per million tokens", "model", "")


def gpu_prices() -> Table:
    """Rented graphics cards, dollars per hour."""
    rows = {
        card.label: {"$ per hour": card.hour, "read": card.date, "source": card.source} for card in costs.GPU_PRICES.values()
    }
    served_on = costs.GPU_PRICES[costs.SERVED_ON].label
    served = f"an 8B model's throughput on the {served_on}: {costs.SERVED_SOURCE}, {costs.SERVED_DATE}"
    return _Linked(rows, f"Rented graphics cards; {served}", "card", "")


WAYS = ("frontier model, long prompt", "small model, long prompt", "fine-tuned, hosted", "fine-tuned, own GPU")


def cost_figure(chosen: costs.Assumptions) -> Figure:
    """Dollars a day by requests a day, everything included, with the volume from which fine-tuning pays."""
    ways, days = chosen.ways(), chosen.days
    names = dict(zip(costs.WAYS, WAYS))
    xs = [10 ** (power / 4) for power in range(4, 29)]
    lines = {names[name]: (xs, [way.total(n, days) / days for n in xs]) for name, way in ways.items()}
    crossing = chosen.break_even("hosted")
    marks = {}
    if crossing is not None and xs[0] <= crossing <= xs[-1]:
        marks[f"fine-tuning pays from\n{_round(crossing):,} a day"] = (crossing, ways["hosted"].total(crossing, days) / days)
    title = (
        f"Against {chosen.frontier}, fine-tuning pays from {_round(crossing):,} requests a day"
        if crossing is not None
        else f"Against {chosen.frontier}, fine-tuning never pays"
    )
    return charts.lines(lines, title, "requests a day", "dollars a day", log_x=(10, 1e3, 1e5, 1e7), log_y=True, marks=marks)


def _round(number: float) -> int:
    """To two digits: the assumptions bear no more."""
    return int(float(f"{number:.2g}"))


def knowledge_costs(tokens: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Frontier model → dollars per 1,000 requests with RAG, and with the whole catalogue in a cached prompt.

    Args:
        tokens: of `token_counts`.
    """
    rag, whole = "RAG, asked for the record", "whole catalogue in the prompt"
    changing = tokens[rag] - tokens[f"fixed: {rag}"]
    dollars = {}
    for model in costs.FRONTIER:
        filled = max(tokens[f"fixed: {rag}"], costs.price_of(model).cache_from)
        dollars[model] = {name: 1000 * _request(tokens[name], tokens[f"fixed: {name}"], model) for name in (rag, whole)} | {
            "RAG, filled up": 1000 * _request(filled + changing, filled, model),
            "whole, without a cache": 1000 * costs.request_cost(tokens[whole], 25, model),
        }
    return dollars


def knowledge_costs_table(tokens: Mapping[str, float]) -> Table:
    """`knowledge_costs` as a table."""
    columns = {"RAG, $": "RAG, asked for the record", "whole catalogue, cached, $": "whole catalogue in the prompt",
               "whole catalogue, not cached, $": "whole, without a cache",
               "RAG, filled up to the cache's minimum, $": "RAG, filled up"}  # fmt: skip
    dollars = knowledge_costs(tokens)
    rows = {model: {column: f"{row[key]:.2f}" for column, key in columns.items()} for model, row in dollars.items()}
    whole = round(tokens["whole catalogue in the prompt"])
    caption = f"1,000 requests: one passage found for each, or all {whole:,} tokens in every prompt"
    return Table(rows, caption, "model", "")


def factors_table(chosen: costs.Assumptions) -> Table:
    """How many times a request to the hosted fine-tuned model each frontier model costs, and what of that is due to what."""
    rows = {}
    for name in costs.FRONTIER:
        ways = replace(chosen, frontier=name).ways()
        size = ways["prompted"].request / ways["prompted small"].request
        length = ways["prompted small"].request / ways["hosted"].request
        parts = {"times the price": size * length, "by the size of the model": size, "by the shorter prompt": length}
        rows[name] = {column: round(value, 1) for column, value in parts.items()}
    caption = f"A request with a long prompt, beside {chosen.small} fine-tuned with a short one"
    return Table(rows, caption, "prompted model", "")


def price_of_an_error(chosen: costs.Assumptions, reached: float = 0.87, removed: float = 0.5) -> dict[int, float]:
    """Requests a day → what one error must cost, in dollars, before fine-tuning pays for removing some of them.

    Args:
        chosen: the assumptions.
        reached: share of right answers with the prompt.
        removed: share of the remaining errors that training removes.
    """
    ways, worth = chosen.ways(), {}
    for requests in (10, 100, 1_000, 10_000, 100_000):
        more = ways["hosted"].total(requests, chosen.days) - ways["prompted"].total(requests, chosen.days)
        worth[requests] = max(0.0, more / (chosen.days * requests)) / (removed * (1 - reached))
    return worth


# -- measurements of others ---------------------------------------------------------------------------------------------------


def published() -> Table:
    """What others measured on larger models, with source and date, beside ours on the small one."""
    last = max(passes())
    whole = scores("whole catalogue in the prompt")
    ours_facts = (
        f"RAG {percent(score('RAG, asked for the fact alone', FACT))}, by heart after {last} passes "
        f"{percent(passes()[last]['in other wordings'])}, trained to read and RAG {percent(score('fine-tuned + RAG', FACT))}"
    )
    ours = {
        "rag-or-fine-tuning": ours_facts,
        "rare-facts": "as above: no model can know an invented shop",
        "trained-to-read": f"with the same passages: not trained {percent(score('RAG, asked for the fact alone', FACT))}, trained "
        f"{percent(score('fine-tuned + RAG', FACT))}"
        + (f", on products that it was not trained on {percent(score(UNSEEN, FACT))}" if scores(UNSEEN) else ""),
        "facts-trained-in": f"of facts that changed, {100 * stale_share():.0f} % were still answered with the old one; training new "
        "ones in afterwards was not tested",
        "long-context": f"whole catalogue: {percent(whole[FACT]) if whole else MISSING}",
    }
    found = {id: row for id, row in facts.table("published").items() if row["lesson"] == "01"}
    rows = {
        row["question"]: {
            "measured by others": row["found"],
            "source": row["source"],
            "ours, 135M": ours.get(id, "not tested here"),
        }
        for id, row in found.items()
    }
    return Table(rows, f"Read {min(row['date'] for row in found.values())}", "question", "")


def frontier(catalogue: Catalogue, tokens: Mapping[str, float] | None = None) -> Table:
    """The same questions to an endpoint of the reader's own, if `COURSE_FRONTIER` names a model there; else what to set.

    Args:
        catalogue: the questions; forty requests with invented content leave the machine.
        tokens: not needed; for symmetry with the other tables.
    """
    from course_utils import hardware
    from course_utils.errors import CourseError

    name = hardware.secret("COURSE_FRONTIER")
    if not name:
        return Table({"COURSE_FRONTIER": {"set": "no"}}, "No endpoint is set; the lesson goes on without", "variable", "")
    from course_utils.data_prep.endpoint import ask, client_for

    rows: dict[str, dict[str, Any]] = {}
    questions = catalogue.questions[::5]
    try:
        client = client_for(hardware.secret("OPENAI_BASE_URL"), hardware.secret("OPENAI_API_KEY"))
        for system in ("prompt: few-shot", "RAG: few-shot"):
            replies = [
                ask(client, name, prompt, None, 1000, 0.0, f"{system}-{q['id']}")
                for prompt, q in zip(prompts(system, catalogue, questions), questions)
            ]
            quality = catalogue.evaluate([reply.text for reply in replies], questions)
            rows[f"{name}, {system}"] = {FACT: quality.knowledge, RECORD: quality.behaviour, BOTH: quality.both}
    except CourseError as error:  # the endpoint is not the lesson, which goes on without
        rows["the endpoint did not answer"] = {FACT: str(error)}
    return Table(rows, f"{len(questions)} questions", "system", "")


# -- for the helper -----------------------------------------------------------------------------------------------------------


def sentences(chosen: costs.Assumptions) -> dict[str, str]:
    """What the record and the prices say, by kind of evidence, for `decision.decide`."""
    pays = chosen.break_even("hosted")
    last = max(passes())
    rag, both = score("RAG, asked for the fact alone", FACT), score("fine-tuned + RAG", FACT)
    return {
        "knowledge": f"on 100 facts RAG was right in {percent(rag)}, with a model trained to read in {percent(both)}; learned by heart, "
        f"in {percent(passes()[last]['in other wordings'])} after {last} passes",
        "behaviour": f"form, topic and product were right in {percent(score('fine-tuned', RECORD))} after fine-tuning, in "
        f"{percent(score('instructions and three examples', RECORD))} with fixed examples and in "
        f"{percent(score('retrieved examples', RECORD))} with retrieved ones, most of which had asked for the same fact before",
        "both": f"right on both sides at once: together {percent(score('fine-tuned + RAG', BOTH))}, fine-tuned alone "
        f"{percent(score('fine-tuned', BOTH))}, RAG asked for the record {percent(score('RAG, asked for the record', BOTH))}",
        "stale": f"after the catalogue changed, {100 * stale_share():.0f} % of the answers learned by heart were the old fact",
        "tokens": f"instructions and examples took {chosen.instructions:.0f} tokens of each request",
        "volume": "under the lesson's assumptions a hosted fine-tune "
        + ("never pays" if pays is None else f"pays from {_round(pays):,} requests a day"),
    }
