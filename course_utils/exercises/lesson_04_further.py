"""Exercises of the notebook beside section 04, learning from a score."""

from __future__ import annotations

from course_utils.exercises.definitions import Exercise, Mistake


def advantages_of_groups(rewards):
    """GRPO's advantages, and how many of the groups teach anything.

    Args:
        rewards: shape (messages, answers to each).

    Returns:
        (advantages, share): advantages have the same shape; each is the distance from its
        group's mean, in (sample) standard deviations of the group, and exactly 0 throughout
        a group whose rewards are all equal. share is the share of groups whose rewards are
        not all equal, from 0 to 1.
    """
    ### BEGIN SOLUTION
    teaches = rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True)
    spread = rewards.std(1, keepdim=True)
    advantages = (rewards - rewards.mean(1, keepdim=True)) / spread.where(teaches, 1)
    return advantages.where(teaches, 0), float(teaches.double().mean())
    ### END SOLUTION


def _group_cases(random):
    import torch

    cases = []
    for groups, answers, flat in ((4, 4, 1), (5, 4, 2), (6, 3, 2)):
        rewards = torch.tensor(random.uniform(0, 1, size=(groups, answers)).round(2))
        for row in range(groups):  # far apart in level, so that the batch's mean is not the groups'
            rewards[row] += 2.0 * row
        for row in random.permutation(groups)[:flat]:
            rewards[row] = rewards[row, 0].clone()
        cases.append((rewards,))
    # Means that rounding makes inexact, so that a spread of nearly 0 must not be divided by; an answer that is just the mean.
    shared = torch.tensor(random.permutation([0.1, 0.7, 0.95, 1.1, 1.9])[:, None]).expand(-1, 3)
    level = float(random.integers(1, 9))
    cases.append((torch.cat([shared, level + torch.tensor([[0.0, 0.5, 1.0], [2.0, 1.0, 0.0]])]),))
    return cases


def _group_teaches(rewards):
    return rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True)


def _group_whole_batch(rewards):
    _, share = advantages_of_groups(rewards)
    return (rewards - rewards.mean()) / rewards.std(), share


def _group_population(rewards):
    teaches = _group_teaches(rewards)
    spread = rewards.std(1, keepdim=True, correction=0).where(teaches, 1)
    return ((rewards - rewards.mean(1, keepdim=True)) / spread).where(teaches, 0), float(teaches.double().mean())


def _group_floor(rewards):
    _, share = advantages_of_groups(rewards)
    return (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4), share


def _group_not_divided(rewards):
    teaches = _group_teaches(rewards)
    return (rewards - rewards.mean(1, keepdim=True)).where(teaches, 0), float(teaches.double().mean())


def _group_not_centred(rewards):
    teaches = _group_teaches(rewards)
    spread = rewards.std(1, keepdim=True).where(teaches, 1)
    return (rewards / spread).where(teaches, 0), float(teaches.double().mean())


def _group_share_flat(rewards):
    advantages, share = advantages_of_groups(rewards)
    return advantages, 1 - share


def _group_share_counted(rewards):
    advantages, share = advantages_of_groups(rewards)
    return advantages, round(share * len(rewards))


def _group_columns(rewards):
    _, share = advantages_of_groups(rewards)
    return (rewards - rewards.mean(0, keepdim=True)) / rewards.std(0, keepdim=True), share


def advantages(rewards, values, last_value, gamma, gae_lambda):
    """Generalised advantage estimation over one answer, which may have been cut off.

    Args:
        rewards: list of floats, one for each token.
        values: list of floats, the value of the state before each token.
        last_value: value of the state after the last token: 0 for an answer that came to
            its end, what the value model expects for one that was cut off.
        gamma: discount per token of delay.
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
            [float(x) for x in random.normal(size=n)],
            [float(x) for x in random.normal(size=n)],
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


EXERCISES = (
    Exercise(
        id="reinforce-1",
        title="Groups that teach nothing",
        statement="A group of equal rewards teaches nothing. Compute GRPO's advantages without the small number that the "
        "notebook adds to the spread; where all rewards of a group are equal, its advantages are exactly 0. Also return the "
        "share of groups that teach anything. If that share falls toward 0, the task has become too easy or too hard.",
        solution=advantages_of_groups,
        cases=_group_cases,
        points=3,
        needs=("torch",),
        mistakes=(
            Mistake(
                _group_whole_batch,
                "You take mean and spread over the whole batch. Compare an answer with the other answers to its own "
                "message.",
            ),
            Mistake(_group_population, "The spread divides by n. The sample standard deviation, torch's default, divides by n - 1."),
            Mistake(_group_floor, "You added 1e-4 to the spread, as the notebook does. Leave it out here; a group of equal rewards needs its own case."),
            Mistake(_group_not_divided, "The distance from the mean is not yet divided by the spread of the group."),
            Mistake(_group_not_centred, "The mean of the group is not subtracted: then every answer with a positive reward becomes more likely."),
            Mistake(_group_share_flat, "That is the share of groups that teach nothing; return the share of the others."),
            Mistake(_group_share_counted, "That is the number of groups; return their share, from 0 to 1."),
            Mistake(_group_columns, "You compare the first answers of all messages with each other; a group is a row."),
        ),
        hint=(
            "A row teaches if its largest reward is above its smallest. Divide by the spread in those rows and by 1 "
            "elsewhere."
        ),
        equivalent={"constant: 1 (4)": "what groups of equal rewards are divided by does not matter"},
    ),
    Exercise(
        id="reinforce-2",
        title="Advantages by GAE",
        statement=(
            "Write generalised advantage estimation for an answer that may have been cut off. If it was, something "
            "would have followed its last token."
        ),
        solution=advantages,
        cases=_answer_cases,
        points=4,
        mistakes=(
            Mistake(_deltas_only, "These are the one-step errors; each advantage also adds gamma x gae_lambda times the next one."),
            Mistake(_lambda_forgotten, "gae_lambda is missing: the next advantage is weighted by gamma x gae_lambda."),
            Mistake(_gamma_left_out, "The next advantage is weighted by gamma x gae_lambda, not by gae_lambda alone."),
            Mistake(
                _cut_off_taken_for_an_end,
                "You treat the state after the last token as worth nothing; it is worth `last_value`.",
            ),
            Mistake(_last_value_without_gamma, "Everything that follows is discounted, including `last_value`."),
            Mistake(_left_backwards, "The advantages are in the order you computed them, last token first: turn them round."),
            Mistake(
                _returns_instead,
                "These are returns, advantage plus value; the exercise asks for the advantages alone.",
            ),
        ),
        hint="delta = reward + gamma x next value - value; advantage = delta + gamma x gae_lambda x next advantage.",
        equivalent={"constant: 0.0 (2)": "a place in a list that is written before it is read"},
    ),
)  # fmt: skip
