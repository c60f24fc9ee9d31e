"""Claims in the text, compared with what was measured.

A figure that circulates is only a claim until this machine has computed it. Each claim has an id; `check` records the
result, and each notebook ends with `table()`.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from course_utils.errors import CourseError

# The figures and statements that the course tests, section by section, in its own words.
CLAIMS = {
    "D1": "A fine-tuned 7B model matches a prompted frontier model on a narrow task at 10 to 100 times lower cost",
    "D2": "Fine-tuning on a format saves the tokens of its instructions on every call",
    "D3": "If prompting reaches 85-90 % of the goal, the rest rarely pays",
    "D4": "With fewer than 100 good examples you overfit",
    "D5": "A gap in knowledge is better closed by retrieval than by fine-tuning",
    "L1": "Memory for a 7B model: full fine-tuning about 60 GB, LoRA 16-18 GB, QLoRA about 6 GB; for 70B about 600, 160, 35 GB",
    "L2": "Hardware: full fine-tuning takes a multi-GPU cluster, LoRA one A100 or RTX 4090, QLoRA an RTX 3060 (7B) or an A100 (70B)",
    "L3": "The adapter of a 7B model is 50-200 MB, under 2 % of the model",
    "L4": "r=16 on all seven projections of a 7B model: 41,943,040 trainable of 7,284,015,104 = 0.5757 %",
    "L5": "LoRA trains under 1 % of the parameters and cuts memory about tenfold at comparable quality",
    "L6": "A merged adapter adds no latency and gives the same outputs",
    "L7": "The update of a 4096 x 4096 matrix is captured by two thin matrices",
    "L8": "Low rank is enough for simple changes of behaviour",
    "Q1": "Loading the base in 4 bits cuts the memory of its weights to a quarter",
    "Q2": "QLoRA trains 20-30 % slower than LoRA",
    "Q3": "A 70B model takes about 140 GB (two A100s); with QLoRA about 35 GB, so that one A100 is enough",
    "Q4": "r=16 on q, k, v, o of Llama-3.1-8B: 20,971,520 trainable of 8,051,249,152 = 0.2604 %",
    "Q5": "4-bit storage with 16-bit compute keeps the quality of full fine-tuning",
    "A1": "DPO costs 1.5 to 2 times what SFT costs",
    "A2": "ORPO costs about as much as SFT and needs no reference model",
    "A3": "RLHF costs 3 to 10 times what SFT costs and holds three models in memory",
    "A4": "DPO needs no separate reward model",
    "A5": "A KL penalty keeps the policy near the reference",
    "P1": "About 100 curated examples beat thousands of mediocre ones (at full scale: 10,000)",
    "P2": "Duplicates make a model overfit to phrasings",
    "P3": "A test set from the generator of the training data overstates quality",
    "P4": "A small curated set beats a large scraped one (at full scale: 500 against 5,000)",
    "P5": "Examples needed: 100-500 for a format, 500-2,000 for a style, 2,000-10,000 for conventions, 10,000-50,000 for knowledge",
    "O1": "The fine-tuned model needs no format instructions",
    "O2": "Hosted: few techniques, no access to the weights, data leave; self-hosted: the reverse",
    "O3": "Validation loss shows overfitting: it rises while training loss falls",
}  # fmt: skip

# The words of a verdict.
HOLDS, FAILS = "holds", "does not hold"
UNDER_A_CONDITION, NOT_TESTED = "holds under a condition", "not tested here"

# Where a claim can be met, with the date on which it was read there.
SOURCES = {
    "D1": "vendors' pages and course outlines on small fine-tuned models (2023-2026)",
    "D2": "course outlines and hosts' guides to fine-tuning (2023-2026)",
    "D3": "course outlines on fine-tuning (2023-2026)",
    "D4": "course outlines (2023-2026); OpenAI's guide to supervised fine-tuning says 10 at least, gains from 50 to 100 "
    "(read 2026-11-27)",
    "D5": "nearly every introduction to RAG; Ovadia et al. (2023), Fine-Tuning or Retrieval?, arXiv 2312.05934",
    "L1": "course outlines (2023-2026); LLaMA-Factory's README (read 2026-11-27) has the same figures, but 48 GB for the last",
    "L2": "course outlines and blog posts on fine-tuning hardware (2023-2026)",
    "L3": "course outlines on LoRA (2023-2026)",
    "L4": "tutorials that print PEFT's count for Mistral-7B (several public repositories, read 2026-11-27)",
    "L5": "course outlines (2023-2026); Hu et al. (2021) themselves write of three times less GPU memory",
    "L6": "Hu et al. (2021), section 4.1: “no additional inference latency”",
    "L7": "Hu et al. (2021), section 4.1, and nearly every introduction since",
    "L8": "Hu et al. (2021), section 7.2, where rank 1 suffices on two tasks",
    "Q1": "introductions to QLoRA, which compare 16 bits with 4 (2023-2026)",
    "Q2": "course outlines and blog posts on QLoRA (2023-2026)",
    "Q3": "course outlines on fine-tuning hardware (2023-2026)",
    "Q4": "tutorials that print PEFT's count for Llama-3.1-8B (2024-2026)",
    "A1": "course outlines and blog posts on DPO (2023-2026)",
    "A2": "course outlines; Hong et al. (2024), ORPO, abstract: no reference model, one stage",
    "A3": "course outlines on RLHF (2023-2026), and most introductions to PPO",
    "A4": "Rafailov et al. (2023), DPO, title: “Your Language Model is Secretly a Reward Model”",
    "A5": "Ziegler et al. (2019); Ouyang et al. (2022); nearly every introduction to RLHF since",
    "Q5": "Dettmers et al. (2023), QLoRA, abstract: “preserving full 16-bit finetuning task performance”",
    "O1": "course outlines and hosts' guides to fine-tuning (2023-2026)",
    "O2": "course outlines that compare hosted and self-hosted training (2023-2026)",
    "O3": "nearly every guide to fine-tuning, hosts' own included (2023-2026)",
    "P1": "course outlines (2023-2026); the idea is that of Zhou et al. (2023), LIMA, arXiv 2305.11206, with 1,000 examples",
    "P2": "guides to data preparation (2023-2026); Lee et al. (2021), arXiv 2107.06499, found that copies are memorised",
    "P3": "course outlines (2023-2026)",
    "P4": "course outlines (2023-2026)",
    "P5": "course outlines and blog posts on fine-tuning (2023-2026)",
}


@dataclass(frozen=True)
class Claim:
    """One claim, and the result of checking it.

    Attributes:
        id: key of CLAIMS, such as "L4".
        text: the claim as it circulates.
        measured: what was computed or measured, in words and figures.
        verdict: HOLDS, FAILS, UNDER_A_CONDITION or NOT_TESTED.
    """

    id: str
    text: str
    measured: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.id}: {self.verdict}. Measured: {self.measured}"


_checked: dict[str, Claim] = {}


def set_verdict(id: str, verdict: str, sentence: str) -> Claim:
    """Keep a verdict that was reached elsewhere (package `evidence`); a later one of the same id replaces it.

    Args:
        id: key of CLAIMS.
        verdict: the verdict's word: HOLDS, UNDER_A_CONDITION, FAILS or NOT_TESTED.
        sentence: what was found, in one sentence.

    Raises:
        CourseError: the id or the verdict is unknown.
    """
    if id not in CLAIMS:
        raise CourseError(f"unknown claim {id!r}; known are {', '.join(CLAIMS)}")
    if verdict not in (HOLDS, UNDER_A_CONDITION, FAILS, NOT_TESTED):
        raise CourseError(f"unknown verdict {verdict!r}")
    _checked[id] = Claim(id, CLAIMS[id], sentence, verdict)
    return _checked[id]


class ClaimsTable(list[Claim]):
    """Claims as a table: HTML in a notebook, lines of text elsewhere."""

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col" style="text-align:left">{h}</th>' for h in ("", "Claim", "Measured here", "Verdict")
        )
        cell = '<td style="text-align:left;vertical-align:top">'  # Jupyter's own style aligns cells to the right
        rows = "".join(
            f'<tr><th scope="row">{c.id}</th>{cell}{escape(c.text)}</td>{cell}{escape(c.measured)}</td>'
            f"{cell}<b>{c.verdict}</b></td></tr>"
            for c in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        return "\n".join(f"{c.id}  {c.text}\n    {c.measured}\n    {c.verdict}" for c in self)


def table() -> ClaimsTable:
    """Return all claims that were checked so far in this session, in order of their ids."""
    return ClaimsTable(_checked[id] for id in sorted(_checked))
