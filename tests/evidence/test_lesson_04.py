"""Lesson 04: verdicts follow the records, what is not recorded says so, and the rules of the house style judge rightly."""

import json

import pytest

from course_utils import assets, claims, evidence
from course_utils.data_prep import load_preferences
from course_utils.errors import CourseError
from course_utils.evaluation import Likelihoods, proportion
from course_utils.evidence import house_style, lesson_04

A_CLAIMS = [id for id in claims.CLAIMS if id.startswith("A")]


@pytest.fixture(autouse=True)
def _no_claims(monkeypatch):
    monkeypatch.setattr(claims, "_checked", {})


@pytest.fixture(scope="module")
def balanced():
    return load_preferences("balanced")


@pytest.fixture
def unrecorded(monkeypatch):
    monkeypatch.setattr(lesson_04, "preferences", lambda: None)


@pytest.fixture
def recorded(monkeypatch, balanced):
    """Puts a small record in place; the shares of the methods can be changed."""
    test = balanced.test[:20]

    def put(dpo=0.9, control=0.6, right=0.9, judge_right=0.75):
        shares = {lesson_04.START: 0.3, lesson_04.CONTROL: control, "DPO": dpo, "DPO, β = 0.02": 0.5, "DPO, β = 1": 0.4,
                  "ORPO": 0.5, "GRPO": 0.5, "DPO, rate too high": 0.1, "DPO, contradictory pairs": 0.3}  # fmt: skip
        runs = []
        for seed in range(3):
            methods = {}
            for name, share in shares.items():
                good = round(share * len(test))
                texts = [row["chosen" if i < good else "rejected"] for i, row in enumerate(test)]
                kept = [float(i < good) for i in range(len(test))]
                methods[name] = {
                    "right": [float(i < right * len(test)) for i in range(len(test))], "texts": texts,
                    "kl": [1.0 + seed] * 5, "last loss": 0.5, "last accuracy": 0.8, "rate": 3e-4,
                    **dict.fromkeys((*house_style.RULES, "all rules"), kept),
                }  # fmt: skip
            for found in methods.values():
                found["wins over control"] = house_style.wins(test, found["texts"], methods[lesson_04.CONTROL]["texts"])
                found["wins by judge"] = found["wins over control"]
            judge = {
                "ranks test pairs": [float(i < judge_right * len(test)) for i in range(len(test))],
                "agrees with the rules": [1.0, 1.0, 1.0, 0.0, 1.0],
            }
            runs.append({"seed": seed, "methods": methods, "judge": judge})
        content = {"date": "2026-12-01", "plan": {"pairs": 120, "test": 60}, "seeds": [0, 1, 2], "runs": runs}
        monkeypatch.setattr(lesson_04, "preferences", lambda: content)

    return put


def test_every_claim_of_the_lesson_has_a_judge_and_a_source(unrecorded):
    for id in A_CLAIMS:
        assert id in claims.SOURCES
        assert evidence.card(id)._repr_html_()
    assert [claim.id for claim in claims.table()] == A_CLAIMS


def test_costs_are_judged_by_the_record():
    assert evidence.card("A1").verdict.word == claims.UNDER_A_CONDITION
    assert evidence.card("A2").verdict.word == claims.UNDER_A_CONDITION
    assert evidence.card("A3").verdict.word == claims.FAILS
    assert "The models: not three. PPO has 4 roles" in evidence.card("A3").verdict.sentence


@pytest.mark.parametrize(
    ("ppo", "held", "word", "where"),
    [
        (6.0, (4, 2), claims.FAILS, "inside"),
        (6.0, (4, 3), claims.HOLDS, "inside"),
        (12.0, (3, 2), claims.UNDER_A_CONDITION, "above"),
        (2.0, (3, 2), claims.UNDER_A_CONDITION, "below"),
    ],
)
def test_rlhf_is_judged_by_its_time_and_its_models(monkeypatch, ppo, held, word, where):
    real = json.loads(json.dumps(lesson_04.prices()))
    real["over SFT"]["PPO"]["an example"] = [ppo, ppo, ppo]
    monkeypatch.setattr(lesson_04, "prices", lambda: real)
    monkeypatch.setitem(lesson_04.HELD, "PPO", held)
    verdict = evidence.card("A3").verdict
    assert verdict.word == word and where in verdict.sentence


@pytest.mark.parametrize(
    ("shared", "twice", "word"),
    [(1.7, 2.4, claims.UNDER_A_CONDITION), (1.6, 1.9, claims.HOLDS), (1.2, 2.4, claims.FAILS)],
)
def test_dpos_time_is_judged_both_ways_of_counting(monkeypatch, shared, twice, word):
    real = json.loads(json.dumps(lesson_04.prices()))
    real["over SFT"]["DPO, prompt shared"]["an example"] = [shared] * 3
    real["over SFT"]["DPO"]["an example"] = [twice] * 3
    monkeypatch.setattr(lesson_04, "prices", lambda: real)
    assert evidence.card("A1").verdict.word == word


@pytest.mark.parametrize(
    ("right", "judge_right", "word"),
    [(0.9, 0.9, claims.HOLDS), (0.5, 0.5, claims.FAILS), (0.8, 1.0, claims.FAILS), (0.9, 0.6, claims.HOLDS)],
)
def test_implicit_rewards_are_judged_by_the_record_and_beside_a_reward_model(recorded, right, judge_right, word):
    recorded(right=right, judge_right=judge_right)
    verdict = evidence.card("A4", ranks=proportion([False] * 100)).verdict
    assert verdict.word == word and "3 seeds" in verdict.sentence
    assert f"on the same pairs that is {100 * (right - judge_right):+.0f} points" in verdict.sentence


def test_what_was_learned_is_told_by_kind(recorded):
    recorded(right=1.0, judge_right=0.0)
    rows = lesson_04.kinds_learned().rows
    assert sum(row["test pairs"] for row in rows.values()) == 20
    asked = [row for row in rows.values() if row["test pairs"]]
    assert all(row["DPO"].startswith("100 %") and row["a reward model"].startswith("0 %") for row in asked)


def test_a_favourite_is_what_most_answers_promise():
    answers = ["A replacement is on its way.", "We send a replacement today.", "Unplug it at once.", "Hello.", "Hi.", "Hey."]
    promised = [house_style.steps_in(answer) for answer in answers]
    assert promised[0] == promised[1] != promised[2]
    assert lesson_04._favourite(answers) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert lesson_04._favourite(["Hello."]) == [0.0]


def test_the_title_of_a_log_says_what_happened():
    def told(chosen, rejected):
        rows = [{"step": i, "rewards/chosen": chosen * i, "rewards/rejected": rejected * i} for i in range(9)]
        return lesson_04.reading_the_log(rows).alt

    assert "both fell, and the margin is 0.65" in told(-0.1, -0.2) and "both rose" in told(0.2, 0.1)
    assert "chosen rose, rejected fell" in told(0.2, -0.1) and "chosen fell, rejected rose" in told(-0.2, 0.1)


@pytest.mark.parametrize(
    ("right", "of", "word"),
    [(90, 100, claims.HOLDS), (10, 100, claims.FAILS), (14, 24, claims.NOT_TESTED), (0, 0, claims.NOT_TESTED)],
)
def test_a_run_that_cannot_tell_is_no_verdict(unrecorded, right, of, word):
    ranks = proportion([i < right for i in range(of)]) if of else None
    assert evidence.card("A4", ranks=ranks).verdict.word == word


def test_the_leash_is_judged_seed_by_seed(monkeypatch, tmp_path):
    assert evidence.card("A5").verdict.word == claims.HOLDS
    record = json.loads(assets.benchmark_results("alignment").read_text(encoding="utf-8"))
    record["runs"][1]["methods"]["PPO"]["kl"] = [99.0]
    (tmp_path / "r.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(assets, "benchmark_results", lambda name: tmp_path / "r.json")
    assert evidence.card("A5").verdict.word == claims.FAILS


@pytest.mark.parametrize(("dpo", "control", "wins"), [(1.0, 0.2, 0.9), (0.2, 1.0, 0.1), (0.5, 0.5, 0.5)])
def test_the_methods_are_set_against_the_control_as_the_record_says(recorded, dpo, control, wins):
    recorded(dpo, control)
    for run in lesson_04.preferences()["runs"]:
        run["methods"]["DPO"]["wins by judge"] = [1.0] * 5 + [0.0] * 15
    row = lesson_04.against_control(("DPO",)).rows["DPO"]
    assert row["by the rules"].value == pytest.approx(wins, abs=0.01) and row["by a reward model"].value == 0.25


def test_every_case_has_its_step_in_the_words_of_the_desk():
    rows = load_preferences("balanced").train
    steps = [row["right step"] for row in lesson_04.steps_table(rows).rows.values()]
    assert [house_style.steps_in(step) for step in steps] == [{case} for case in house_style.STEPS]
    assert {row["case"] for row in rows} == set(house_style.STEPS)


def test_a_pair_that_is_ranked_right_beside_an_answer_that_lost_the_number(recorded):
    recorded()
    assert "not recorded" in repr(lesson_04.ranked_and_lost())  # this record has no SFT term
    for run in lesson_04.preferences()["runs"]:
        methods = run["methods"]
        methods[lesson_04.WITH_SFT] = {**methods["DPO"], "order is the customer's": [1.0] * 20}
        methods["DPO"] |= {"order is the customer's": [0.0] * 20, "right": [1.0] * 20}
        methods[lesson_04.START]["order is the customer's"] = [1.0] * 20
    shown = lesson_04.ranked_and_lost()
    assert list(shown.models) == ["the pair's chosen reply", lesson_04.START, "DPO", lesson_04.WITH_SFT]


def test_with_a_record_tables_and_figures_show_it(recorded):
    recorded()
    assert "2026-12-01" in lesson_04.methods_table().caption
    assert "KTO" not in lesson_04.methods_table().rows  # which the record does not have
    assert lesson_04.methods_table().rows["DPO"]["all rules kept"].startswith("90 %")
    assert lesson_04.compared().rows["DPO"]["step first"].startswith("90 %") and "2026-12-01" in lesson_04.compared().caption
    assert lesson_04.failures_table().rows["DPO, rate too high"]["training pairs right, %"] == 80
    assert lesson_04.failures_table().rows["DPO"]["learning rate"] == "0.0003"
    cards = lesson_04.before_and_after()
    assert list(cards.models) == ["before", "after DPO"] and cards._repr_html_()


def test_without_a_record_they_say_so(unrecorded):
    for shown in (lesson_04.compared(), lesson_04.methods_table(), lesson_04.against_control(), lesson_04.failures_table()):
        assert lesson_04.NOT_RECORDED in repr(shown)
    assert "wanted" in lesson_04.before_and_after().models


RULE_OF = {"order": "step first", "step": "right step", "tone": "tone fits", "item": "order is the customer's"}


def test_a_pairs_replies_differ_in_the_rule_of_its_kind_and_in_no_other(balanced):
    for row in [*balanced.train, *balanced.validation, *balanced.test]:
        chosen, rejected = (house_style.judge(row, row[key]) for key in ("chosen", "rejected"))
        assert {rule for rule in house_style.RULES if chosen[rule] != rejected[rule]} == {RULE_OF[row["kind"]]}, row["id"]
        assert chosen[RULE_OF[row["kind"]]]
        assert all(kept or rule == "step first" for rule, kept in chosen.items()), row["id"]
        assert house_style.score(row, row["chosen"]) > house_style.score(row, row["rejected"])


def test_the_kinds_are_shown_with_an_example_of_each(balanced):
    table = lesson_04.kinds_table(balanced.train)
    assert sum(row["pairs, %"] for row in table.rows.values()) == 100
    assert len({row["chosen"] for row in table.rows.values()}) == len(RULE_OF)


@pytest.mark.parametrize("broken", house_style.RULES)
def test_each_rule_can_be_broken_alone(balanced, broken):
    row = next(r for r in balanced.test if r["case"] == "defect" and r["tone"] == "calm" and r["kind"] == "order")
    reply = row["chosen"]
    changed = {
        "step first": row["rejected"],
        "right step": f"{reply} A reset link is in your inbox.",
        "tone fits": f"{reply} We are sorry.",
        "order is the customer's": reply.replace(row["order"], "TB-00000"),
        "comes to an end": reply.rstrip("."),
    }[broken]
    kept = house_style.judge(row, changed)
    assert not kept[broken]
    assert [rule for rule, fine in kept.items() if not fine] == [broken]


def test_the_reward_takes_what_trl_passes(balanced):
    rows = [row for row in balanced.test if row["kind"] in ("order", "item")][:3]
    columns = {key: [row[key] for row in rows] for key in ("case", "tone", "order")}
    texts = [[{"role": "assistant", "content": row["chosen"]}] for row in rows]
    expected = [house_style.score(row, row["chosen"]) for row in rows]
    assert house_style.reward(completions=texts, **columns) == expected and max(expected) == 1.0


def test_wins_count_ties_half(balanced):
    rows = balanced.test[:2]
    good, bad = [row["chosen"] for row in rows], [row["rejected"] for row in rows]
    assert house_style.wins(rows, good, bad) == [1.0, 1.0]
    assert house_style.wins(rows, bad, good) == [0.0, 0.0]
    assert house_style.wins(rows, good, good) == [0.5, 0.5]


def test_gains_and_what_they_rank():
    before = [Likelihoods(-10.0, -8.0, 4, 4)] * 2
    now = [Likelihoods(-9.0, -9.0, 4, 4), Likelihoods(-12.0, -9.0, 4, 4)]
    assert lesson_04.gains(before, now) == [(1.0, -1.0), (-2.0, -1.0)]
    assert lesson_04.ranked(before, now).value == 0.5


def test_a_log_is_read_and_another_trainers_is_refused():
    log = [
        {"step": n, "loss": 0.69 - n / 10, "rewards/chosen": n / 5, "rewards/rejected": -n / 5, "rewards/margins": 0.4 * n}
        for n in range(3)
    ] + [{"train_runtime": 3.0}]
    assert lesson_04.log_table(log).rows["rewards/margins"]["mean of the last 4"] == pytest.approx(0.4)
    assert "chosen rose, rejected fell" in lesson_04.reading_the_log(log).alt
    for read in (lesson_04.log_table, lesson_04.reading_the_log):
        with pytest.raises(CourseError, match="DPOTrainer"):
            read([{"loss": 1.0}])


def test_the_collapse_is_counted():
    before, after = ['{"category": "a"}', "no"], ['{"category": "a"}'] * 2
    table = lesson_04.collapse_table(before, after, lambda text: text.startswith("{"), ["a", "b"])
    assert [row["different answers"] for row in table.rows.values()] == [2, 1]
    assert table.rows["after GRPO"]["category right"].value == 0.5
