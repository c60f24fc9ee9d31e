"""Exercises of section 04, alignment."""

from __future__ import annotations

from course_utils.exercises.definitions import Exercise, Mistake


def conservative_dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, doubt):
    """DPO's loss of a batch of pairs whose annotators may be wrong.

    Args:
        policy_chosen, policy_rejected: log-probabilities of the whole replies under the policy, shape (pairs,).
        reference_chosen, reference_rejected: the same under the frozen reference, shape (pairs,).
        beta: float.
        doubt: probability that a pair's labels are the wrong way round; the loss is then (1 - doubt) times that of the pair
            as it stands, plus doubt times that of the pair turned round.

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


def preference_probability(reward_one, reward_other):
    """How likely is reply one preferred to the other, if Bradley and Terry are right?

    Args:
        reward_one, reward_other: rewards of the two replies, shape (pairs,).

    Returns:
        Tensor of probabilities, shape (pairs,).
    """
    ### BEGIN SOLUTION
    return (reward_one - reward_other).sigmoid()
    ### END SOLUTION


def _reward_cases(random):
    import torch

    return [tuple(torch.tensor(random.normal(size=n) * 2, dtype=torch.float64) for _ in range(2)) for n in (2, 4, 7)]


def _ratio_of_rewards(reward_one, reward_other):
    return reward_one / (reward_one + reward_other)


def _other_first(reward_one, reward_other):
    import torch

    return torch.sigmoid(reward_other - reward_one)


def _certain(reward_one, reward_other):
    return (reward_one > reward_other).double()


def _logarithm_of_it(reward_one, reward_other):
    return _log_sigmoid(reward_one - reward_other)


def _doubled(reward_one, reward_other):
    import torch

    return torch.sigmoid(2 * (reward_one - reward_other))


def log_odds_ratio(chosen, rejected):
    """ORPO's log odds ratio of one pair.

    Args:
        chosen, rejected: log-probabilities of the tokens of each reply, shape (tokens,); the two may differ in length.

    Returns:
        Tensor without dimensions: log(odds of chosen / odds of rejected), odds = p / (1 - p), where p is the geometric mean
        of a reply's token probabilities.
    """
    ### BEGIN SOLUTION
    log_odds = []
    for logs in (chosen, rejected):
        log_p = logs.mean()  # the mean of logs is the log of the geometric mean
        log_odds.append(log_p - (1 - log_p.exp()).log())
    return log_odds[0] - log_odds[1]
    ### END SOLUTION


def _token_cases(random):
    import torch

    def reply(n):
        return torch.tensor(-random.uniform(0.2, 3.0, size=n), dtype=torch.float64)

    return [(reply(4), reply(7)), (reply(6), reply(3)), (reply(5), reply(9))]


def _odds_ratio(logs_chosen, logs_rejected):
    import torch

    log_odds = [log - torch.log1p(-log.exp()) for log in (logs_chosen, logs_rejected)]
    return log_odds[0] - log_odds[1]


def _summed_logs(chosen, rejected):
    return _odds_ratio(chosen.sum(), rejected.sum())


def _ratio_of_probabilities(chosen, rejected):
    return chosen.mean() - rejected.mean()


def _arithmetic_mean(chosen, rejected):
    return _odds_ratio(chosen.exp().mean().log(), rejected.exp().mean().log())


def _without_logarithm(chosen, rejected):
    return _odds_ratio(chosen.mean(), rejected.mean()).exp()


def _odds_upside_down(chosen, rejected):
    return _odds_ratio(rejected.mean(), chosen.mean())


def advantages(rewards, values, last_value, gamma, gae_lambda):
    """Generalised advantage estimation over one answer, which may have been cut off.

    Args:
        rewards: list of floats, one for each token.
        values: list of floats, the value of the state before each token.
        last_value: value of the state after the last token: 0 for an answer that came to its end, what the value head
            expects for one that was cut off.
        gamma: discount of what comes a token later.
        gae_lambda: lambda of the estimate, from 0 (one-step errors) to 1.

    Returns:
        List of floats, one advantage for each token.
    """
    ### BEGIN SOLUTION
    result, next_advantage, next_value = [0.0] * len(rewards), 0.0, last_value
    for t in range(len(rewards) - 1, -1, -1):
        error = rewards[t] + gamma * next_value - values[t]
        result[t] = next_advantage = error + gamma * gae_lambda * next_advantage
        next_value = values[t]
    return result
    ### END SOLUTION


def _answer_cases(random):
    return [
        (
            random.normal(size=n).tolist(),
            random.normal(size=n).tolist(),
            float(random.uniform(1, 2)),
            float(random.uniform(0.8, 0.95)),
            float(random.uniform(0.6, 0.9)),
        )
        for n in (2, 3, 6)
    ]


def _gae(rewards, values, last_value, gamma, gae_lambda):
    advantages_reversed, next_advantage, next_value = [], 0.0, last_value
    for reward, value in zip(reversed(rewards), reversed(values)):
        next_advantage = reward + gamma * next_value - value + gamma * gae_lambda * next_advantage
        next_value = value
        advantages_reversed.append(next_advantage)
    return advantages_reversed[::-1]


def _deltas_only(rewards, values, last_value, gamma, gae_lambda):
    return _gae(rewards, values, last_value, gamma, 0.0)


def _lambda_forgotten(rewards, values, last_value, gamma, gae_lambda):
    return _gae(rewards, values, last_value, gamma, 1.0)


def _gamma_left_out(rewards, values, last_value, gamma, gae_lambda):
    return _gae(rewards, values, last_value, gamma, gae_lambda / gamma)


def _cut_off_taken_for_an_end(rewards, values, last_value, gamma, gae_lambda):
    return _gae(rewards, values, 0.0, gamma, gae_lambda)


def _last_value_without_gamma(rewards, values, last_value, gamma, gae_lambda):
    return _gae(rewards, values, last_value / gamma, gamma, gae_lambda)


def _left_backwards(rewards, values, last_value, gamma, gae_lambda):
    return _gae(rewards, values, last_value, gamma, gae_lambda)[::-1]


def _returns_instead(rewards, values, last_value, gamma, gae_lambda):
    return [a + v for a, v in zip(_gae(rewards, values, last_value, gamma, gae_lambda), values)]


def clipped_objective(ratio, advantage, clip):
    """PPO's loss of each token.

    Args:
        ratio: new over old probability of each token, shape (tokens,).
        advantage: shape (tokens,).
        clip: epsilon; the ratio counts between 1 - clip and 1 + clip.

    Returns:
        Tensor, shape (tokens,): what gradient descent is to make smaller.
    """
    ### BEGIN SOLUTION
    return -(ratio * advantage).minimum(ratio.clamp(1 - clip, 1 + clip) * advantage)
    ### END SOLUTION


def _ratio_cases(random):
    import torch

    cases = []
    for n in (8, 12, 16):
        # Both signs of the advantage on both sides of the clip, so that no mistake can hide.
        ratio = torch.tensor(random.permutation([*random.uniform(0.3, 0.7, n // 2), *random.uniform(1.35, 2.0, n // 2)]))
        sign = torch.ones(n, dtype=torch.float64)
        sign[::2] = -1
        order = torch.argsort(ratio)
        advantage = torch.empty(n, dtype=torch.float64)
        advantage[order] = sign * torch.tensor(random.uniform(0.5, 2, n))
        cases.append((ratio, advantage, float(random.uniform(0.1, 0.25))))
    return cases


def _only_clipped(ratio, advantage, clip):
    return -ratio.clamp(1 - clip, 1 + clip) * advantage


def _the_larger(ratio, advantage, clip):
    import torch

    return -torch.maximum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def _gain_not_loss(ratio, advantage, clip):
    import torch

    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def _never_clipped(ratio, advantage, clip):
    return -ratio * advantage


def _clipped_above_only(ratio, advantage, clip):
    import torch

    return -torch.minimum(ratio * advantage, ratio.clamp(max=1 + clip) * advantage)


def _ratio_clipped_to_epsilon(ratio, advantage, clip):
    import torch

    return -torch.minimum(ratio * advantage, ratio.clamp(-clip, clip) * advantage)


EXERCISES = (
    Exercise(
        id="align-1",
        title="DPO when the annotators may be wrong",
        statement="DPO believes every label. Write its conservative form (cDPO), which keeps a doubt: with probability `doubt` the pair is the wrong way round.",
        solution=conservative_dpo_loss,
        cases=_log_probability_cases,
        points=4,
        objectives=(1,),
        mistakes=(
            Mistake(_no_reference, "The reference is missing: what counts is how far each reply's log-probability moved from the reference's."),
            Mistake(_wrong_way_round, "The margin is the wrong way round: chosen less rejected, so that the loss falls when chosen gains."),
            Mistake(_sum_of_pairs, "The losses are summed; the convention is their mean over the pairs."),
            Mistake(_never_in_doubt, "This is plain DPO: the pair turned round, weighted by `doubt`, is missing."),
            Mistake(_beta_outside, "beta belongs inside the sigmoid, where it scales the margin, not before the loss."),
            Mistake(_no_minus, "The sign is missing: logsigmoid is to rise, so the loss is its negative."),
        ),
        hint="margin = beta times the difference of two log-ratios, policy less reference. Turned round, it is -margin.",
    ),
    Exercise(
        id="align-2",
        title="Bradley and Terry",
        statement="From two rewards to the probability that the first reply is preferred.",
        solution=preference_probability,
        cases=_reward_cases,
        points=2,
        objectives=(1,),
        mistakes=(
            Mistake(_ratio_of_rewards, "Rewards may be negative, so their ratio is no probability: the model compares exp(reward), which gives a sigmoid of the difference."),
            Mistake(_other_first, "This is the probability that the *other* one is preferred: first reward less second."),
            Mistake(_certain, "The larger reward does not always win: the probability grows smoothly with the difference."),
            Mistake(_logarithm_of_it, "This is the log-probability, which belongs into the loss; asked for is the probability."),
            Mistake(_doubled, "The difference is doubled; Bradley and Terry take it as it is."),
        ),
        hint="exp(a) / (exp(a) + exp(b)) is the sigmoid of something.",
    ),
    Exercise(
        id="align-3",
        title="ORPO's odds ratio",
        statement="From token log-probabilities of two replies to the log of their odds ratio.",
        solution=log_odds_ratio,
        cases=_token_cases,
        points=3,
        objectives=(1,),
        mistakes=(
            Mistake(_summed_logs, "The log-probabilities are summed: the longer reply would lose for its length. Take their mean, the log of the geometric mean."),
            Mistake(_ratio_of_probabilities, "This is the ratio of probabilities; odds are p / (1 - p), so log(1 - p) has to come off."),
            Mistake(_arithmetic_mean, "You averaged probabilities; the geometric mean is the exponential of the mean of the logs."),
            Mistake(_without_logarithm, "This is the ratio itself; asked for is its logarithm."),
            Mistake(_odds_upside_down, "The ratio is upside down: odds of chosen over odds of rejected."),
        ),
        hint="log odds = log p - log(1 - p), with log p the mean of the token log-probabilities.",
    ),
    Exercise(
        id="align-4",
        title="Advantages by GAE",
        statement="Generalised advantage estimation for an answer that may have been cut off: then something would have followed its last token.",
        solution=advantages,
        cases=_answer_cases,
        points=4,
        objectives=(1,),
        mistakes=(
            Mistake(_deltas_only, "These are the one-step errors; each advantage also adds gamma x gae_lambda times the next one."),
            Mistake(_lambda_forgotten, "gae_lambda is missing: the next advantage is weighted by gamma x gae_lambda."),
            Mistake(_gamma_left_out, "The next advantage is weighted by gamma x gae_lambda, not by gae_lambda alone."),
            Mistake(_cut_off_taken_for_an_end, "After the last token you count nothing; the state there is worth `last_value`."),
            Mistake(_last_value_without_gamma, "What follows is discounted, `last_value` too."),
            Mistake(_left_backwards, "The advantages are in the order you computed them, last token first: turn them round."),
            Mistake(_returns_instead, "These are returns, advantage plus value; asked for are the advantages."),
        ),
        hint="delta = reward + gamma x next value - value; advantage = delta + gamma x gae_lambda x next advantage.",
    ),
    Exercise(
        id="align-5",
        title="PPO's clipped objective",
        statement="The loss of each token, clipped so that no single batch moves the policy too far.",
        solution=clipped_objective,
        cases=_ratio_cases,
        points=3,
        objectives=(1,),
        mistakes=(
            Mistake(_only_clipped, "Only the clipped ratio counts here: a move in the wrong direction would go unpunished. Take the smaller of both products."),
            Mistake(_the_larger, "You took the larger of both products; the objective is pessimistic and takes the smaller."),
            Mistake(_gain_not_loss, "This is the gain; gradient descent needs its negative."),
            Mistake(_never_clipped, "Nothing is clipped."),
            Mistake(_clipped_above_only, "The ratio is clipped above only: 1 - clip bounds it below."),
            Mistake(_ratio_clipped_to_epsilon, "The ratio is clipped around 0; it is to stay near 1, between 1 - clip and 1 + clip."),
        ),
        hint="Two products, one with ratio.clamp(1 - clip, 1 + clip); the smaller of them; minus.",
    ),
)  # fmt: skip
