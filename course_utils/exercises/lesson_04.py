"""Exercises of section 04, alignment."""

from __future__ import annotations

from typing import Any

from course_utils.exercises.comparing import plain_number
from course_utils.exercises.definitions import Challenge, Exercise, Mistake


def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    """DPO's loss of a batch of pairs whose annotators may be wrong.

    Args:
        policy_chosen, policy_rejected: log-probabilities of the whole replies under the
            policy, shape (pairs,).
        reference_chosen, reference_rejected: the same under the frozen reference, shape
            (pairs,).
        beta: float.
        doubt: probability that a pair's labels are swapped; the loss is (1 - doubt) times
            the loss of the pair as it stands, plus doubt times the loss of the swapped
            pair.

    Returns:
        Tensor without dimensions: the mean over the pairs.
    """
    ### BEGIN SOLUTION
    from torch.nn.functional import logsigmoid

    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return -((1 - doubt) * logsigmoid(margin) + doubt * logsigmoid(-margin)).mean()
    ### END SOLUTION


def _log_probability_cases(random):
    import torch

    cases = []
    for pairs in (2, 3, 6):
        logs = [torch.tensor(-random.uniform(5, 40, size=pairs), dtype=torch.float64) for _ in range(2)]
        moved = [log + torch.tensor(random.normal(size=pairs) * 3, dtype=torch.float64) for log in logs]
        cases.append((*moved, *logs, float(random.uniform(0.05, 0.6)), float(random.uniform(0.05, 0.3))))
    return cases


def _log_sigmoid(x):
    import torch.nn.functional as F

    return F.logsigmoid(x)


def _both_ways(margin, doubt):
    return -((1 - doubt) * _log_sigmoid(margin) + doubt * _log_sigmoid(-margin))


def _margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected):
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)


def _no_reference(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    return _both_ways(beta * (policy_chosen - policy_rejected), doubt).mean()


def _wrong_way_round(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    return _both_ways(-beta * _margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected), doubt).mean()


def _sum_of_pairs(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    return _both_ways(beta * _margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected), doubt).sum()


def _never_in_doubt(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    return _both_ways(beta * _margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected), 0.0).mean()


def _beta_outside(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    return beta * _both_ways(_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected), doubt).mean()


def _no_minus(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    return -_both_ways(beta * _margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected), doubt).mean()


def _margin_shrunk(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    from torch.nn.functional import logsigmoid

    margin = beta * _margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -logsigmoid((1 - 2 * doubt) * margin).mean()


def log_probabilities_of_batch(logits, tokens, mask):
    """Log-probability of each reply of a padded batch, in nats.

    Args:
        logits: scores of the model at each position, shape (replies, tokens, vocabulary).
        tokens: ids of message and reply, padded with zeros at the end, shape (replies,
            tokens); whole numbers.
        mask: 1 on a reply's own tokens, 0 on the message's and on the padding, shape
            (replies, tokens).

    Returns:
        Tensor, shape (replies,).
    """
    ### BEGIN SOLUTION
    logs = logits[:, :-1].log_softmax(-1)  # the scores at a position are about the next token
    found = logs.gather(2, tokens[:, 1:, None])[..., 0]
    return (found * mask[:, 1:]).sum(1)
    ### END SOLUTION


def _logit_cases(random):
    import torch

    cases = []
    for lengths in ((6, 8), (9, 7, 5), (8, 10)):
        size = max(lengths)
        logits = torch.tensor(random.normal(size=(len(lengths), size, 7)) * 2)
        tokens, mask = (
            torch.zeros(len(lengths), size, dtype=torch.long),
            torch.zeros(len(lengths), size, dtype=torch.float64),
        )
        for row, length in enumerate(lengths):
            tokens[row, :length] = torch.tensor(random.integers(1, 7, size=length))
            mask[row, int(random.integers(2, length - 2)) : length] = 1
        cases.append((logits, tokens, mask))
    return cases


def _looked_up(logs, tokens):
    return logs.gather(2, tokens[..., None])[..., 0]


def _log_mask_not_shifted(logits, tokens, mask):
    return (_looked_up(logits[:, :-1].log_softmax(-1), tokens[:, 1:]) * mask[:, :-1]).sum(1)


def _log_mean(logits, tokens, mask):
    return (_looked_up(logits[:, :-1].log_softmax(-1), tokens[:, 1:]) * mask[:, 1:]).sum(1) / mask.sum(1)


def _log_mean_with_padding(logits, tokens, mask):
    return (_looked_up(logits[:, :-1].log_softmax(-1), tokens[:, 1:]) * mask[:, 1:]).mean(1)


def _log_over_positions(logits, tokens, mask):
    return (_looked_up(logits[:, :-1].log_softmax(1), tokens[:, 1:]) * mask[:, 1:]).sum(1)


def _log_of_the_whole_batch(logits, tokens, mask):
    return (_looked_up(logits[:, :-1].log_softmax(-1), tokens[:, 1:]) * mask[:, 1:]).sum()


def losses_of_a_run(chosen, rejected, beta):
    """DPO's loss of one pair before training and after each step.

    Args:
        chosen: log-probability of the chosen reply under the policy, shape (steps + 1); the
            first one is before training.
        rejected: the same for the rejected reply.
        beta: float.

    Returns:
        Tensor, shape (steps + 1).
    """
    ### BEGIN SOLUTION
    from torch.nn.functional import logsigmoid

    margin = beta * ((chosen - chosen[0]) - (rejected - rejected[0]))  # the reference is the policy before training
    return -logsigmoid(margin)
    ### END SOLUTION


def _run_cases(random):
    import torch

    cases = []
    for steps in (3, 5, 6):
        moves = random.uniform(0.5, 3, size=(2, steps + 1)).cumsum(1) * [[1.0], [-1.0]]
        start = -random.uniform(20, 60, size=(2, 1))
        chosen, rejected = torch.tensor(start + moves)
        cases.append((chosen, rejected, float(random.uniform(0.05, 0.4))))
    return cases


def _before_each(values):
    import torch

    return torch.cat([values[:1], values[:-1]])


def _run_as_written(chosen, rejected, beta):
    return -_log_sigmoid(beta * (chosen - _before_each(chosen)) - (rejected - _before_each(rejected)))


def _run_moving(chosen, rejected, beta):
    return -_log_sigmoid(beta * ((chosen - _before_each(chosen)) - (rejected - _before_each(rejected))))


def _run_beta_on_one(chosen, rejected, beta):
    return -_log_sigmoid(beta * (chosen - chosen[0]) - (rejected - rejected[0]))


def _run_reference_last(chosen, rejected, beta):
    return -_log_sigmoid(beta * ((chosen - chosen[-1]) - (rejected - rejected[-1])))


def _run_wrong_way(chosen, rejected, beta):
    return -_log_sigmoid(-beta * ((chosen - chosen[0]) - (rejected - rejected[0])))


def length_shortcut(chosen, rejected):
    """Find the length rule that ranks the most pairs right. Such a rule prefers the reply
    whose word count is nearer to a given number.

    Args:
        chosen, rejected: word counts of the two replies of each pair, lists of int of the
            same length.

    Returns:
        (number, share): number is a whole number from 1 to the longest reply's word count, the
        smallest one if several are equally good. share is the share of pairs that its rule
        ranks right, from 0 to 1, with a tie counting half.
    """

    ### BEGIN SOLUTION
    def right(number):
        scores = []
        for good, bad in zip(chosen, rejected):
            a, b = abs(good - number), abs(bad - number)
            scores.append(0.5 if a == b else float(a < b))
        return sum(scores) / len(scores)

    best = max(range(1, max(*chosen, *rejected) + 1), key=right)
    return best, right(best)
    ### END SOLUTION


def _share_right(chosen, rejected, number, tie=0.5):
    scores = [
        tie if abs(a - number) == abs(b - number) else float(abs(a - number) < abs(b - number))
        for a, b in zip(chosen, rejected)
    ]
    return sum(scores) / len(scores)


def _best_length(chosen, rejected, tie=0.5, last=False):
    numbers = range(1, max(*chosen, *rejected) + 1)
    shares = [_share_right(chosen, rejected, n, tie) for n in numbers]
    places = [i for i, share in enumerate(shares) if share == max(shares)]
    return numbers[places[-1 if last else 0]]


def _length_rule_cases(random):
    cases: list[tuple] = []
    while len(cases) < 4:
        n = int(random.integers(9, 15))
        chosen = [int(x) for x in random.integers(22, 40, size=n)]
        rejected = random.choice([12, 14, 17, 33, 45, 52], size=n)
        rejected = [int(x) + int(y) for x, y in zip(rejected, random.integers(0, 4, size=n))]
        rejected[0] = chosen[0]  # of equal length
        answers = [length_shortcut(chosen, rejected), *(m(chosen, rejected) for m in _LENGTH_MISTAKES)]
        if len({(number, round(share, 6)) for number, share in answers}) == len(answers):
            cases.append((chosen, rejected))
    # The best number is 1; it is the longest reply's; the rule turned round would be better, and does not count.
    longest = int(random.integers(50, 60))
    shortest = [int(x) for x in random.integers(3, 20, size=4)]
    cases.append(([1, 1, 1, *shortest], [2, 2, 2, *(x + 3 for x in shortest)]))
    cases.append(([longest] * 3 + [30, 31], [longest - 1] * 3 + [20, 22]))
    cases.append(([5, 6, 50, 52, 25, int(random.integers(7, 9))], [25, 26, 27, 24, 40, 28]))
    return cases


def _shortcut_shorter(chosen, rejected):
    return 1, _share_right(chosen, rejected, 1)


def _shortcut_mean(chosen, rejected):
    number = round(sum(chosen) / len(chosen))
    return number, _share_right(chosen, rejected, number)


def _shortcut_largest(chosen, rejected):
    number = _best_length(chosen, rejected, last=True)
    return number, _share_right(chosen, rejected, number)


def _shortcut_ties_right(chosen, rejected):
    number = _best_length(chosen, rejected, tie=1.0)
    return number, _share_right(chosen, rejected, number, tie=1.0)


def _shortcut_ties_wrong(chosen, rejected):
    number = _best_length(chosen, rejected, tie=0.0)
    return number, _share_right(chosen, rejected, number, tie=0.0)


def _shortcut_counted(chosen, rejected):
    number, share = length_shortcut(chosen, rejected)
    return number, share * len(chosen)


def _shortcut_other_way(chosen, rejected):
    number = _best_length(rejected, chosen)
    return number, _share_right(rejected, chosen, number)


_LENGTH_MISTAKES = (
    _shortcut_shorter, _shortcut_mean, _shortcut_largest, _shortcut_ties_right, _shortcut_ties_wrong, _shortcut_counted,
    _shortcut_other_way,
)  # fmt: skip


BUDGET = 1.0  # nats of KL
LOST, HALF_LOST = 0.275, 0.30  # share of comparisons that the reference wins
OVER = f"The policy is further from its reference than {BUDGET:g} nat: take fewer steps or a lower rate."
TIMID = "There is budget left: the policy could move further. Take more steps or a higher rate."
GREEDY = "The budget is used up, but with so small a beta it goes into pairs that are already clear. Try a larger beta."
NEAR = "Nearly there: tune the number of steps until the KL is close to the budget, or try a slightly different beta."


def budgeted_settings():
    """Settings of DPO for the little policy.

    Returns:
        dict with "beta" (0.001 to 100), "learning_rate" (0.001 to 10) and "steps" (a whole
        number, 1 to 1000).
    """
    ### BEGIN SOLUTION
    return {"beta": 0.5, "learning_rate": 0.5, "steps": 33}
    ### END SOLUTION


def little_policy(beta, learning_rate, steps):
    """DPO, in full, on a policy that is a table: 60 messages, 8 possible replies to each, 6 noisy preferences a message.

    Returns:
        (share of comparisons with the reference's replies that the policy's replies win, a tie counting half; KL from the
        reference in nats).
    """
    import torch

    from course_utils.training.objectives import dpo_loss

    generator = torch.Generator().manual_seed(4)
    messages, replies, each = 60, 8, 6

    def normal():
        return torch.randn(messages, replies, generator=generator, dtype=torch.float64)

    reference, score = normal().log_softmax(1), 1.5 * normal()
    pairs = torch.multinomial(reference.exp().repeat_interleave(each, 0), 2, generator=generator)
    message = torch.arange(messages).repeat_interleave(each)[:, None]
    quality = score[message, pairs]
    first = torch.rand(len(pairs), generator=generator, dtype=torch.float64) < (quality[:, 0] - quality[:, 1]).sigmoid()
    pairs = torch.where(first[:, None], pairs, pairs.flip(1))  # (chosen, rejected)
    logits = reference.clone()
    for _ in range(steps):
        logits.requires_grad_(True)
        loss = dpo_loss((logits.log_softmax(1) - reference)[message, pairs], beta).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - learning_rate * gradient).detach()
    logs = logits.log_softmax(1)
    kl = (logs.exp() * (logs - reference)).sum(1).mean().item()
    better = (score[:, :, None] > score[:, None, :]).double() + 0.5 * torch.eye(replies, dtype=torch.float64)
    wins = torch.einsum("mi,mij,mj->m", logs.exp(), better, reference.exp()).mean().item()
    return wins, kl


def _checked(settings: Any) -> tuple[float, float, int]:
    """The three settings, if they are what the statement allows."""
    keys = {"beta", "learning_rate", "steps"}
    if not isinstance(settings, dict) or settings.keys() != keys:
        raise ValueError('Return a dict with exactly these keys: "beta", "learning_rate", "steps".')
    beta, rate, steps = (plain_number(settings[key]) for key in ("beta", "learning_rate", "steps"))
    for name, value, low, high in (("beta", beta, 0.001, 100), ("learning_rate", rate, 0.001, 10)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{name} must be a number from {low:g} to {high:g}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 1000:
        raise ValueError("steps must be a whole number from 1 to 1000.")
    return float(beta), float(rate), steps


def _lost(settings: Any) -> float:
    """Share of comparisons that the reference wins; ValueError if the budget is exceeded."""
    wins, kl = little_policy(*_checked(settings))
    if kl > BUDGET:
        raise ValueError(f"KL {kl:.3f} nats. {OVER}")
    return 1 - wins


def _advise_settings(settings: Any, result: float) -> str:
    beta, rate, steps = _checked(settings)
    _, kl = little_policy(beta, rate, steps)
    if kl < 0.8 * BUDGET:
        return TIMID
    return GREEDY if beta < 0.3 else NEAR


EXERCISES = (
    Exercise(
        id="align-1",
        title="Two bugs in a batch",
        statement="""Now compute a whole batch at once. Replies differ in length, so the shorter rows are padded.
Somebody wrote this function, which has **two** bugs that raise no error. Find and fix them.

```python
def log_probabilities_of_batch(logits, tokens, mask):
    logs = logits.log_softmax(-1)
    logs = logs.gather(2, tokens[..., None])[..., 0]
    return (logs * mask).mean(1)
```""",
        solution=log_probabilities_of_batch,
        cases=_logit_cases,
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(
                lambda logits, tokens, mask: (_looked_up(logits.log_softmax(-1), tokens) * mask).mean(1),
                "Your function gives the same values as the one with the bugs, so nothing is fixed yet.",
            ),
            Mistake(
                lambda logits, tokens, mask: (_looked_up(logits.log_softmax(-1), tokens) * mask).sum(1),
                "The sum is right, but the scores at a position are about the next token, so shift them.",
            ),
            Mistake(
                lambda logits, tokens, mask: _looked_up(logits[:, :-1].log_softmax(-1), tokens[:, 1:]).sum(1),
                "You forgot the mask, so the message's tokens and the padding count too.",
            ),
            Mistake(
                _log_mask_not_shifted,
                "The mask belongs to the tokens, so drop its first place as you drop theirs: mask[:, 1:], not mask[:, "
                ":-1].",
            ),
            Mistake(_log_mean, "That is the mean per token; the log-probability of the whole reply is the sum."),
            Mistake(_log_mean_with_padding, "That divides by the length of the row, padding and message included. The log-probability of a reply is the sum."),
            Mistake(lambda logits, tokens, mask: (_looked_up(logits[:, :-1], tokens[:, 1:]) * mask[:, 1:]).sum(1), "Raw scores are added up; log_softmax turns them into log-probabilities."),
            Mistake(_log_over_positions, "The softmax runs over the positions; it must run over the vocabulary, the last dimension."),
            Mistake(_log_of_the_whole_batch, "That is one number for the whole batch; each reply has its own."),
        ),
        hint="Which token are the scores at position 5 about? And what does a mean divide by?",
    ),
    Exercise(
        id="align-2",
        title="DPO when the annotators may be wrong",
        statement=(
            "DPO trusts every label. Write its conservative form (cDPO), which assumes that a pair's labels are "
            "swapped with probability `doubt`. (TRL 1.16 has no such option: its sigmoid loss ignores "
            "`label_smoothing`, and its `robust` loss is related, not the same.)"
        ),
        solution=conservative_dpo_loss,
        cases=_log_probability_cases,
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(_no_reference, "The reference is missing: what counts is how far each reply's log-probability moved from the reference's."),
            Mistake(
                _wrong_way_round,
                "Your margin is the wrong way round. Take chosen minus rejected, so that the loss falls when chosen "
                "gains. (Swapping `doubt` and 1 - `doubt` gives the same numbers.)",
            ),
            Mistake(_sum_of_pairs, "The losses are summed; the convention is their mean over the pairs."),
            Mistake(_never_in_doubt, "This is plain DPO. The loss of the swapped pair, weighted by `doubt`, is missing."),
            Mistake(_beta_outside, "beta belongs inside the sigmoid, where it scales the margin, not before the loss."),
            Mistake(
                _margin_shrunk,
                "You average the two margins and take one loss of the result. Take the loss of each margin first, and then "
                "the average of the two losses.",
            ),
            Mistake(_no_minus, "The minus sign is missing. Training should raise logsigmoid, so the loss is its negative."),
        ),
        hint="Start from the margin of DPO's loss in section 4. What is the margin of the same pair, swapped?",
    ),
    Exercise(
        id="align-3",
        title="A reference that moves",
        statement="""The first loss of a run is 0.69, as it should be, yet the curve makes no sense.
The code that computes it has **two** bugs. Fix them.

```python
from torch.nn.functional import logsigmoid

def losses_of_a_run(chosen, rejected, beta):
    losses, reference = [], (chosen[0], rejected[0])
    for now in zip(chosen, rejected):
        margin = beta * (now[0] - reference[0]) - (now[1] - reference[1])
        losses.append(-logsigmoid(margin))
        reference = now
    return torch.stack(losses)
```""",
        solution=losses_of_a_run,
        cases=_run_cases,
        points=3,
        needs=("torch",),
        mistakes=(
            Mistake(
                _run_as_written,
                "Your function gives the same values as the one with the bugs, so nothing is fixed yet.",
            ),
            Mistake(_run_moving, "Your reference still moves. At every step, use the policy as it was before training."),
            Mistake(_run_beta_on_one, "beta scales only the gain of chosen; it belongs before the difference of both gains."),
            Mistake(lambda chosen, rejected, beta: -_log_sigmoid(beta * (chosen - rejected)), "There is no reference. What counts is how much each reply has gained since before training."),
            Mistake(_run_reference_last, "The reference is the policy after training; it must be the one before."),
            Mistake(_run_wrong_way, "Your margin is the wrong way round: take the gain of chosen minus that of rejected."),
            Mistake(
                lambda chosen, rejected, beta: losses_of_a_run(chosen, rejected, beta).mean(),
                "That is the mean of the losses; return one loss before training and one after each step.",
            ),
        ),
        hint="From which moment is each gain measured? And what does β multiply?",
    ),
    Exercise(
        id="align-4",
        title="Find the shortcut",
        statement="Before you train on a file of pairs, ask the stupidest model: a rule that prefers the "
        "reply whose word count is closer to some number. Find the number that ranks the most "
        "pairs right, and the share of pairs that it ranks right. "
        "Then run it on your own pairs. If it scores far below your model, that is good news.",
        solution=length_shortcut,
        cases=_length_rule_cases,
        points=4,
        mistakes=(
            Mistake(
                _shortcut_shorter,
                "That is the rule “the shorter one is better”. Here the reply nearer to some number is better, and you "
                "look for the best such number.",
            ),
            Mistake(_shortcut_mean, "The mean length of the chosen replies is a good guess. Try every number and take the best."),
            Mistake(_shortcut_largest, "Several numbers are equally good; return the smallest of them."),
            Mistake(
                _shortcut_ties_right,
                "You score a tie as right. A rule that cannot decide is right half the time, so score it as a half.",
            ),
            Mistake(
                _shortcut_ties_wrong,
                "You score a tie as wrong. A rule that cannot decide is right half the time, so score it as a half.",
            ),
            Mistake(_shortcut_counted, "That is the number of pairs; return their share, from 0 to 1."),
            Mistake(_shortcut_other_way, "Your rule prefers the rejected reply; the chosen reply has to be the nearer one."),
        ),
        hint=(
            "Write a function that gives the share for one number. Then call max(range(1, longest + 1), "
            "key=your_function), which takes the first of equals."
        ),
        tolerance=1e-9,
        equivalent={
            "comparison: a < b": "equal distances are dealt with before",
            "constant: 1 (2)": "beyond the longest reply no number ranks more pairs right",
        },
    ),
    Exercise(
        id="align-5",
        title="Challenge: the most wins per nat",
        statement=f"Here is a policy so small that DPO trains it in a second: a table with 60 messages and 8 possible replies to each, and noisy preferences. "
        f"Find settings with which its replies win at least {100 * (1 - LOST):.1f} % of the comparisons with the "
        f"reference's replies, at a KL of at most {BUDGET:g} nat. "
        f"Winning {100 * (1 - HALF_LOST):.0f} % earns half the points. The policy is actually trained with your settings, "
        "here and in grading, so write the numbers you found into the answer. "
        "To experiment, run `from course_utils.exercises.lesson_04 import little_policy`; `little_policy(beta, "
        "learning_rate, steps)` returns wins and KL.",
        solution=budgeted_settings,
        cases=lambda random: [()],
        points=4,
        needs=("torch",),
        mistakes=(
            Mistake(lambda: {"beta": 0.1, "learning_rate": 1.0, "steps": 100}, OVER),
            Mistake(lambda: {"beta": 5.0, "learning_rate": 0.1, "steps": 400}, TIMID),
            Mistake(lambda: {"beta": 0.05, "learning_rate": 3.0, "steps": 20}, GREEDY),
        ),
        hint=(
            "This policy takes plain gradient steps, which grow with beta. So compare settings at the same KL, not after "
            "the same number of steps. Fix beta, raise the steps until the KL is just below 1, and note the wins. Then "
            "try another beta."
        ),
        challenge=Challenge(_lost, bar=LOST, half=HALF_LOST, advise=_advise_settings, measure="share of comparisons lost (1 minus the win rate)"),
    ),
)  # fmt: skip
