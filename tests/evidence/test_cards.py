"""Cards of claims: what they show, and that a verdict follows the evidence and not the hope."""

import pytest

from course_utils import claims, evidence
from course_utils.errors import CourseError
from course_utils.evaluation import Score
from course_utils.evidence import lesson_02


@pytest.fixture(autouse=True)
def _no_claims(monkeypatch):
    monkeypatch.setattr(claims, "_checked", {})


def record(losses=None, shares=(0.97, 0.6), right=None):
    """A sweep as the benchmark writes it: validation losses by run, shares of truncated updates, and labels right by run."""
    losses = {"LoRA": 0.15, "rank 1": 0.16, "rank 4": 0.15, "rank 64": 0.15, "full, rate 0.0001": 0.14} | (losses or {})
    runs = {
        "untrained": {
            "validation_loss": 2.65,
            "prose_loss": 3.7,
            "records_for_questions": 0.0,
            "scores": {"all enumeration fields right": [0.0]},
        }
    }
    for seed in (0, 1, 2):
        for name, loss in losses.items():
            scores = {
                "valid format": [0.99, 0.95, 1.0],
                "all enumeration fields right": [(right or {}).get(name, 0.6) + 0.01 * seed],
            }
            runs[f"{name} | {seed}"] = {
                "validation_loss": loss + 0.005 * seed, "prose_loss": 3.9, "records_for_questions": 1.0,
                "trained_parameters": 4_884_480, "scores": scores, "answers": ["{}", "{}"],
            }  # fmt: skip
        for name, share in zip(("truncated", "truncated, shuffled answers"), shares):
            ranks = {f"rank {r}": 2.65 - share * 2.5 for r in (1, 4, 16, 64, 256)}
            runs[f"{name} | {seed}"] = {"losses": {"before": 2.65, "whole update": 0.15} | ranks}
    base = {"rank": 16, "alpha": 32, "learning_rate": 2e-3, "targets": "all-linear"}
    return {
        "date": "2026-11-27",
        "seeds": [0, 1, 2],
        "examples": 120,
        "batch": 4,
        "base": base,
        "fields": ["category"],
        "runs": runs,
    }


@pytest.fixture
def swept(monkeypatch):
    """Sets the record that verdicts are read from."""

    def put(**changed):
        made = record(**changed)
        monkeypatch.setattr(lesson_02, "sweep", lambda: made)

    put()
    return put


def test_a_card_shows_claim_source_verdict_and_the_code_behind_a_fold():
    card = evidence.card("L4")
    html = card._repr_html_()
    assert "Source:" in html and "does not hold" in html and "<details>" in html
    assert "def judge_L4()" in html and "course_utils/evidence/lesson_02.py" in html
    assert str(card).startswith("Claim L4:") and "339,968 too high" in str(card)


def test_every_claim_of_the_lesson_has_a_judge_and_a_source():
    ids = [id for id in claims.CLAIMS if id.startswith("L")]
    assert all(hasattr(lesson_02, f"judge_{id}") for id in ids)
    assert set(ids) <= claims.SOURCES.keys()


def test_the_summary_has_what_was_judged_before_and_judges_the_rest(swept):
    evidence.card("L8")
    summary = evidence.summary("L4", "L3")
    assert [line.split()[1] for line in str(summary).splitlines()[::2]] == ["L3:", "L4:", "L8:"]
    html = summary._repr_html_()
    assert html.count("<details") == 3
    assert "339,968 too high" in html and "<table" in html  # with its evidence


@pytest.mark.parametrize("id", ["X1", "L99", ""])
def test_a_claim_without_evidence_is_refused(id):
    with pytest.raises(CourseError, match="there is no evidence"):
        evidence.card(id)


def test_arithmetic_claims():
    words = {id: getattr(lesson_02, f"judge_{id}")().word for id in ("L1", "L2", "L3", "L4")}
    condition = claims.UNDER_A_CONDITION
    assert words == {"L1": claims.FAILS, "L2": condition, "L3": condition, "L4": claims.FAILS}


def test_a_card_that_is_too_small_for_what_it_is_named_for_refutes_the_claim(monkeypatch):
    monkeypatch.setitem(lesson_02.memory.GPUS, "rtx3060", 4e9)
    assert lesson_02.judge_L2().word == claims.FAILS


@pytest.mark.parametrize(("rank_1", "word"), [(0.16, claims.UNDER_A_CONDITION), (0.5, claims.FAILS), (1.5, claims.FAILS)])
def test_low_rank_is_judged_by_what_rank_1_reaches(swept, rank_1, word):
    swept(losses={"rank 1": rank_1})
    assert lesson_02.judge_L8().word == word


@pytest.mark.parametrize(("share", "word"), [(0.97, claims.NOT_TESTED), (0.5, claims.FAILS)])
def test_two_thin_matrices_are_judged_by_what_is_left_of_the_full_update(swept, share, word):
    swept(shares=(share, 0.3))
    verdict = lesson_02.judge_L7()
    assert verdict.word == word
    assert f"{100 * share:.0f} %" in verdict.sentence and "30 %" in verdict.sentence


@pytest.mark.parametrize(
    ("lora", "full", "words"),
    [(0.60, 0.61, "is comparable"), (0.62, 0.40, "is comparable"), (0.21, 0.31, "is open")],
)
def test_quality_is_judged_by_the_labels_and_not_by_the_loss_alone(swept, lora, full, words):
    """The losses are as close as they come; of the labels the ranges over the seeds have to meet."""
    swept(losses={"LoRA": 0.14}, right={"LoRA": lora, "full, rate 0.0001": full})
    verdict = lesson_02.judge_L5()
    assert words in verdict.sentence
    assert f"{100 * lora + 1:.0f} % ({100 * lora:.0f}-{100 * lora + 2:.0f})" in verdict.sentence


def test_alarms_are_counted_by_what_became_of_them():
    right = [{"escalation": value} for value in ("danger", "money", "legal", "none", "none", "none")]
    said = [{"escalation": "danger"}, {"escalation": "legal"}, None, {"escalation": "money"}, {"escalation": "none"}, None]
    rows = lesson_02.alarms(said, right).rows
    assert {name: (row["messages"], row["of"]) for name, row in rows.items()} == {
        "escalated for the right reason": (1, 3), "escalated for another reason": (1, 3),
        "missed: “none”, or no valid record": (1, 3), "false alarms": (1, 3), "right to say “none”": (1, 3),
        "no valid record where nothing was needed": (1, 3),
    }  # fmt: skip


def test_a_prompt_with_rules_holds_the_fields_and_solved_examples():
    from course_utils.data_prep import load_task

    task = load_task("support_tickets", ["category", "order_id"])
    (prompt,) = lesson_02.with_rules(task, task.prompts("validation")[:1], examples=2)
    assert [message["role"] for message in prompt] == ["system", *["user", "assistant"] * 2, "user"]
    assert "category: one of" in prompt[0]["content"] and "order_id:" in prompt[0]["content"]
    assert "product" not in prompt[0]["content"]
    assert prompt[-1] == task.validation[0][1] and prompt[2] == task.train[0][-1]


def test_the_rival_is_taken_at_its_best_rate(swept):
    swept(losses={"full, rate 0.0001": 0.5, "full, rate 0.0003": 0.1})
    assert lesson_02.best_full() == "full, rate 0.0003"


@pytest.mark.parametrize(
    ("merged", "difference", "word"),
    [(1.0, 1e-7, claims.UNDER_A_CONDITION), (1.5, 1e-7, claims.FAILS), (1.0, 1e-2, claims.FAILS)],
)
def test_merging_fails_if_it_is_slower_or_computes_something_else(merged, difference, word):
    latency = {"merged": Score(merged, merged - 0.1, merged + 0.1, 6), "kept apart": Score(1.6, 1.5, 1.7, 6)}
    assert lesson_02.judge_L6(latency, difference, 0.9, "bfloat16").word == word


def test_figures_and_tables_of_the_record_show_themselves(swept):
    names = [
        "rate 2e-05",
        "rate 0.001",
        "alpha 8",
        "alpha 128",
        "attention only, equal size",
        "dropout 0.1",
        "rsLoRA",
        "DoRA",
    ]
    swept(losses=dict.fromkeys([*names, "embedding trained too"], 0.2))
    for name in ("rank", "alpha", "learning rate"):
        figure = lesson_02.setting_curve(name)
        assert 0 < len(figure.alt) <= 300
    for figure in (lesson_02.forgetting(), lesson_02.truncation_figure()):
        assert 0 < len(figure.alt) <= 300
    assert "full fine-tuning" in str(lesson_02.rivals())
