import pytest
from support import tiny_experts, tiny_llama, with_lora

from course_utils import memory
from course_utils.errors import CourseError

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {"qv": ["q_proj", "v_proj"], "qkvo": ["q_proj", "k_proj", "v_proj", "o_proj"], "all7": ALL}
# Base parameters and, at r=16, trainable ones for q,v / q,k,v,o / all seven: built with PEFT on the meta device.
COUNTS = {
    "granite-4.1-3b": (3402836480, 5242880, 10485760, 31129600),
    "granite-4.1-8b": (8380551168, 8519680, 17039360, 49479680),
    "Mistral-7B-v0.1": (7241732096, 6815744, 13631488, 41943040),
    "Mistral-7B-v0.3": (7248023552, 6815744, 13631488, 41943040),
    "Llama-2-7B": (6738415616, 8388608, 16777216, 39976960),
    "Llama-2-13B": (13015864320, 13107200, 26214400, 62586880),
    "Llama-2-70B": (68976648192, 32768000, 65536000, 207093760),
    "LLaMA-65B": (65285660672, 41943040, 83886080, 199884800),
    "LLaMA-33B": (32528943616, 25559040, 51118080, 121896960),
    "Llama-3.1-8B": (8030261248, 6815744, 13631488, 41943040),
    "Llama-3.1-70B": (70553706496, 32768000, 65536000, 207093760),
    "Qwen2.5-7B": (7615616512, 5046272, 10092544, 40370176),
    "Qwen2.5-Coder-0.5B": (494032768, 1081344, 2162688, 8798208),
    "Qwen2.5-Coder-1.5B": (1543714304, 2179072, 4358144, 18464768),
    "Qwen3-4B-Instruct-2507": (4022468096, 5898240, 11796480, 33030144),
    "Qwen3-8B": (8190735360, 7667712, 15335424, 43646976),
    "SmolLM2-135M": (134515008, 921600, 1843200, 4884480),
    "SmolLM2-1.7B": (1711376384, 3145728, 6291456, 18087936),
}
# The same of mixtures of experts, whose "all-linear" is another set: base, q,v / q,k,v,o / all-linear
EXPERTS = {
    "Qwen3-30B-A3B": (30532122624, 6684672, 13369344, 996507648),
    "gpt-oss-20b": (20914757184, 3981312, 7962624, 7962624),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_published_architectures_are_exact(name):
    base, *trainable = COUNTS[name]
    for targets, expected in zip([*TARGETS.values(), "all-linear"], [*trainable, trainable[-1]]):
        count = memory.count_parameters(name, 16, targets)
        assert (count.base, count.trainable, count.total) == (base, expected, base + expected)


def test_every_architecture_has_a_reference():
    assert set(memory.ARCHITECTURES) == set(COUNTS) | set(EXPERTS)


@pytest.mark.parametrize("name", EXPERTS)
def test_counts_of_mixtures_of_experts_are_exact(name):
    base, *trainable = EXPERTS[name]
    for targets, expected in zip([TARGETS["qv"], TARGETS["qkvo"], "all-linear"], trainable):
        assert memory.count_parameters(name, 16, targets) == memory.ParameterCount(base, expected)


@pytest.mark.parametrize("targets", [TARGETS["qkvo"], ALL, "all-linear"], ids=str)
@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_count_equals_what_peft_makes_trainable_of_experts(architecture, targets):
    """PEFT reaches Qwen3's experts by the names their layers once had, Mixtral's by others, and gpt-oss's not at all."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    targets = ["q_proj", "w1", "w2", "w3"] if targets == ALL and architecture == "mixtral" else targets
    model = AutoModelForCausalLM.from_config(tiny_experts(architecture))
    if targets == ALL and architecture == "gpt_oss":
        with pytest.raises(CourseError, match="'gate_proj' matches no linear layer"):
            memory.count_parameters(model, 3, targets)
        return
    count = memory.count_parameters(model, 3, targets)
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules=targets))
    assert adapted.get_nb_trainable_parameters() == (count.trainable, count.total)


def test_half_of_a_fused_layer_is_no_target():
    with pytest.raises(CourseError, match="name both or neither"):
        memory.estimate("Qwen3-30B-A3B", target_modules=("q_proj", "up_proj"))


@pytest.mark.parametrize("targets", [*TARGETS.values(), "all-linear"])
@pytest.mark.parametrize("rank", [1, 5])
def test_count_equals_what_peft_makes_trainable(rank, targets):
    count = memory.count_parameters(tiny_llama(), rank, targets)
    model = with_lora(tiny_llama(), rank=rank, target_modules=targets)
    assert model.get_nb_trainable_parameters() == (count.trainable, count.total)


@pytest.mark.parametrize(
    ("rank", "targets", "said"),
    [(0, "all-linear", "rank must be at least 1"), (-3, "all-linear", "not -3"), (4, ["q_prj"], "'q_prj' matches no")],
)
def test_bad_requests_are_named(rank, targets, said):
    with pytest.raises(CourseError, match=said):
        memory.count_parameters(tiny_llama(), rank, targets)


def test_unknown_architecture_is_named():
    with pytest.raises(CourseError, match="unknown model 'GPT-9'"):
        memory.count_parameters("GPT-9")
