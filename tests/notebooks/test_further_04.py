"""The notebook beside lesson 04: its code from scratch against TRL's loss, and what its stored outputs promise."""

import re
from statistics import mean

import nbformat
import pytest
from support import conversation, lesson_code, tiny_llama, trl_arguments, trl_tokenizer, with_lora

from course_utils import assets, evaluation, lessons

LESSON = lessons.find("further/04")


def test_grpo_from_scratch_is_trls(tmp_path):
    import datasets
    import torch

    trl, functions = pytest.importorskip("trl"), lesson_code("further/04", "grpo-from-scratch", torch=torch)
    # Newer versions weight the KL term by the ratio, too; the notebook says that it leaves this out.
    plain = {"use_bias_correction_kl": False} if hasattr(trl.GRPOConfig, "use_bias_correction_kl") else {}
    trainer = trl.GRPOTrainer(
        model=with_lora(tiny_llama()), reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl_arguments(
            trl.GRPOConfig, tmp_path, beta=0.04, loss_type="grpo", num_generations=3, temperature=1.0,
            max_completion_length=8, **plain,
        ),
        train_dataset=datasets.Dataset.from_list([{"prompt": conversation("Is it blue?")[:2]}]),
        processing_class=trl_tokenizer(),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    made = torch.Generator().manual_seed(3)
    prompts, answers = torch.randint(5, 200, (6, 4), generator=made), torch.randint(5, 200, (6, 7), generator=made)
    mask = torch.ones(6, 7, dtype=torch.long)
    mask[1, 4:] = mask[4, 2:] = 0
    rewards = torch.rand(2, 3, generator=made)
    advantages = functions["group_advantages"](rewards).flatten()
    model = trainer.model.eval()
    ids = torch.cat([prompts, answers], 1)
    logs = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, 3:, 0]
    old, reference = (logs.detach() + 0.3 * torch.randn(logs.shape, generator=made) for _ in range(2))
    inputs = {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": answers, "completion_mask": mask,
        "advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    theirs = trainer._compute_loss(model, inputs)
    ours = functions["grpo_loss"](logs, old, reference, advantages, mask, clip=0.2, beta=0.04)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ((logs - old).exp() - 1).abs().max() > 0.2  # something is clipped
    expected = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(expected.flatten(), advantages)


def shown(code):
    """What the stored notebook's cell with this code shows, text and HTML."""
    cells = nbformat.read(lessons.learner_file(LESSON.name), as_version=4).cells
    cell = next(cell for cell in cells if cell.cell_type == "code" and code in cell.source)
    return "\n".join(output.get("text") or output.get("data", {}).get("text/html", "") for output in cell.outputs)


def test_the_gamed_reward_rises_and_different_answers_become_fewer():
    """Notices a start, a rate or a version of TRL after which the check isn't learned, or nothing collapses."""
    rewards = [float(reward) for reward in re.search(r"step by step: (.*)", shown("by_form, form_rewards ="))[1].split()]
    assert mean(rewards[-3:]) > mean(rewards[:3]) + 0.1
    rows = re.findall(
        r"<th>([^<]+)</th>\s*<td>\d+%</td>\s*<td>[^<]*</td>\s*<td>(\d+)</td>", shown("measure(answers) for name, answers")
    )
    (start, before), (form, after) = rows
    assert (start, form) == ("the start", "valid record") and int(after) < int(before)


def test_the_recorded_runs_are_what_the_text_says_of_them():
    """Notices a new record that tells another story: then somebody reads section 4 again."""
    ways = {"start": "start", "form": "form", "content": "content", "SFT": "SFT on the same messages"}
    runs = {name: assets.read_record("laptop-rewards")["runs"][f"seed 0 | {way}"] for name, way in ways.items()}
    fields = ("category", "escalation", "product", "order_id")
    right = {name: [mean(hits) for hits in zip(*(run["right"][field] for field in fields))] for name, run in runs.items()}
    gain = evaluation.mean([a - b for a, b in zip(right["content"], right["start"])])
    assert gain.low > 0 and mean(right["SFT"]) > mean(right["content"]) + 0.05
    whole = evaluation.paired_difference(*([*map(bool, runs[name]["right"]["all fields"])] for name in ("content", "start")))
    assert whole.low < 0 < whole.high
    assert mean(runs["form"]["right"]["valid"]) > 0.98 and not any(runs["form"]["right"]["all fields"])
    assert len(set(runs["form"]["answers"])) == 1 and runs["form"]["nulls"] == 1
    few, many = (mean(runs[name]["curve"]["groups"][15:]) for name in ("form", "content"))
    assert few < 2 < 4 < many  # of six


def test_it_takes_no_more_than_what_stands_beside_a_lesson_may():
    notebook = nbformat.read(lessons.learner_file(LESSON.name), as_version=4)
    # 1.9 GB is what a lesson should take; TRL's twelve answers a step take more
    assert notebook.metadata.course["peak_mb"] <= 2800 and notebook.metadata.course["seconds"] <= 60 * 8
