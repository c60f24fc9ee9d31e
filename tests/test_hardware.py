import json
import os
import subprocess
import sys

import pytest

from course_utils import hardware


@pytest.mark.parametrize(
    ("capability", "gigabytes", "tier", "dtype"),
    [
        ((7, 5), 15.8, "t4", "float16"),  # Tesla T4: bf16 is only emulated there
        ((8, 0), 42.4, "a100", "bfloat16"),
        ((8, 9), 23.7, "t4", "bfloat16"),  # L4: one 8B model fits, two do not
        ((9, 0), 85.0, "a100", "bfloat16"),
        ((8, 6), 12.6, "t4", "bfloat16"),  # RTX 3060: bf16, but too small for 8B
        ((7, 0), 16.9, "t4", "float16"),  # V100
        ((8, 6), 4.0, "cpu", "bfloat16"),  # a laptop's GPU: the small model, on the GPU
    ],
)
def test_gpu_tier_and_dtype_follow_capability_and_memory(capability, gigabytes, tier, dtype):
    assert hardware.gpu_tier(capability, gigabytes * 1e9) == tier
    assert hardware.gpu_dtype(capability) == dtype


def test_a_tier_that_is_chosen_is_the_devices_tier_and_never_detected(monkeypatch):
    from course_utils import facts, models, plans
    from course_utils.errors import CourseError

    detected = hardware.detect()
    chosen_only = [name for name, row in facts.table("tiers").items() if "gpu_memory" not in row]
    assert chosen_only == ["laptop"] and detected.tier != "laptop"
    monkeypatch.setenv(hardware.TIER, "laptop")
    assert hardware.detect().tier == "laptop" and hardware.detect().dtype == detected.dtype
    assert models._name_for(None, None) == models.TIERS["laptop"].name
    assert plans.plan("02") == plans.plan("02", "laptop") != plans.plan("02", "cpu")
    monkeypatch.setenv(hardware.TIER, "labtop")
    with pytest.raises(CourseError, match="COURSE_TIER is 'labtop'; the tiers are cpu, laptop, t4, a100"):
        hardware.detect()


def test_dtype_of_a_t4_does_not_ask_torch(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # what it says on a T4
    t4 = type("Properties", (), {"name": "Tesla T4", "major": 7, "minor": 5, "total_memory": 15_828_320_256})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: t4)
    device = hardware.detect()
    assert (device.tier, device.dtype, device.kind) == ("t4", "float16", "cuda")
    assert device.torch_dtype() is torch.float16


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"COLAB_RELEASE_TAG": "release-colab-20260819"}, "colab"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, "kaggle"),
        ({"BINDER_SERVICE_HOST": "x"}, "binder"),
        ({}, "plain"),
    ],
)
def test_environment_is_read_from_the_hosts_variables(monkeypatch, variables, expected):
    for name in ("COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE", "BINDER_SERVICE_HOST", "BINDER_REF_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hardware.detect_environment() == expected


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("AuthenticAMD", "fpu avx512f avx512_bf16", True),
        ("GenuineIntel", "fpu avx512f avx512_bf16", False),
        ("GenuineIntel", "fpu avx512f avx512_bf16 amx_bf16", True),
        ("AuthenticAMD", "fpu avx2 avx512f", False),
    ],
)
def test_cpu_bfloat16_is_fast_only_where_the_processor_multiplies_it(monkeypatch, vendor, flags, fast):
    text = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t: {flags}\n"
    monkeypatch.setattr(hardware.Path, "read_text", lambda *a, **k: text)
    assert hardware.cpu_has_fast_bfloat16() is fast


@pytest.mark.parametrize(("rank", "cards", "place"), [(None, 2, "cuda:0"), ("1", 2, "cuda:1"), ("3", 2, "cuda:1")])
def test_a_process_has_a_card_of_its_own(monkeypatch, rank, cards, place):
    import torch

    asked = []
    t4 = type("Properties", (), {"name": "Tesla T4", "major": 7, "minor": 5, "total_memory": 15_828_320_256})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: asked.append(index) or t4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert hardware.detect().place() == place
    assert asked == [int(place[-1])]


def test_container_limits_count(monkeypatch):
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000", "/sys/fs/cgroup/memory.max": "2000000000"}
    monkeypatch.setattr(hardware, "_read_words", lambda file: files.get(file, "max").split())
    assert hardware.usable_memory() == 2_000_000_000
    assert hardware.usable_cores() <= 2


def test_importing_the_package_is_quick_and_loads_nothing_heavy(tmp_path):
    """In a fresh interpreter: nothing is loaded but the standard library, and hardly any time goes to anything else."""
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(tmp_path)  # by the first start; the later ones find it there

    def fresh(code, *arguments):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=compiled)
        return json.loads(done.stdout)

    ours = (
        "import sys, time; before = set(sys.modules); t = time.process_time(); import course_utils, course_utils.cli; "
        "from course_utils import hardware, models, memory, training, generation, evaluation, charts; "
        "t = time.process_time() - t; import json; print(json.dumps([t, sorted(set(sys.modules) - before)]))"
    )
    theirs = (
        "import sys, time; from importlib import import_module; t = time.process_time(); "
        "[import_module(name) for name in sys.argv[1:]]; print(time.process_time() - t)"
    )
    _, loaded = fresh(ours)
    library = [name for name in loaded if name.partition(".")[0] in sys.stdlib_module_names]
    assert {name.partition(".")[0] for name in {*loaded} - {*library}} == {"course_utils"}
    spent, reference = [], []
    for _ in range(8):  # in turns, until each has had a quiet moment
        spent.append(fresh(ours)[0])
        reference.append(fresh(theirs, *library))
        if min(spent) < 2 * min(reference):
            return
    raise AssertionError((spent, reference))
