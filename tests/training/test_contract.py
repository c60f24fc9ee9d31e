"""The trainer uses of an objective what `Objective` has, and nothing else."""

import pytest
from support import conversation, tiny_llama, with_lora

from course_utils import training
from course_utils.training.objectives import Objective

PAIRS = [{"prompt": f"Question {i}?", "chosen": f"Answer {i}.", "rejected": "No."} for i in range(5)]
DATA = {
    "sft": [conversation(pair["prompt"], pair["chosen"]) for pair in PAIRS],
    "dpo": PAIRS,
}
OBJECTIVES = [training.SFT(), training.DPO()]


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


class Only:
    """An objective of which only the contract's names can be read; it notes which were."""

    def __init__(self, objective, allowed):
        self.objective, self.allowed, self.used = objective, allowed, set()

    def __getattr__(self, name):
        if name not in self.allowed:
            raise AssertionError(f"the trainer asks an objective for {name!r}, which is not in its contract")
        self.used.add(name)
        return getattr(self.objective, name)


def run(packaged, objective, name, **settings):
    settings = training.Settings(batch_size=3, max_steps=2, evaluate_every=1, **settings)
    model = with_lora(tiny_llama(), random_b=False)
    return training.fit(model, packaged[1], DATA[name], DATA[name][:2], objective, settings)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_the_trainer_asks_for_nothing_that_is_not_in_the_contract(packaged, tmp_path, objective):
    limited = Only(objective, public(Objective))
    history = run(packaged, limited, objective.name, checkpoint_folder=tmp_path, micro_batch_tokens=40)
    assert len(history.losses) == 2
    unused = public(Objective) - limited.used - {"reference", "name"}  # the name is for people
    assert not unused, "in the contract, and the trainer never asks for it"
    assert ("reference" in limited.used) == objective.needs_reference
