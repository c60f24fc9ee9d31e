"""Plain functions that tests and benchmarks share; fixtures are in conftest.py.

In a module of its own because several folders have a conftest.py, and which of them `import conftest` finds depends on the
order in which they were collected.
"""

import os
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

# A lesson's minutes are meant for two quick cores. Others of the same kind were half as fast with the same code; what a
# lesson took, and where, stands in its header.
SLOW = 2


@contextmanager
def jupyter(command, home, folder=None):
    """Address of a Jupyter server that `command` starts in `folder`: a free port, no token, settings in `home`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    places = {"JUPYTER_CONFIG_DIR": str(home), "JUPYTERLAB_WORKSPACES_DIR": str(home)}
    with (home / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], cwd=folder, env=os.environ | places, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=20)
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


@contextmanager
def cpu_below(seconds):
    """The block may use so many seconds of this process's processor time; that others keep the machine busy is no matter."""
    began = time.process_time()
    yield
    spent = time.process_time() - began
    assert spent < seconds, f"{spent:.2f} s of processor time"


def cpu_of(function) -> float:
    """Seconds of processor time that a call takes, the least of three."""
    spent = []
    for _ in range(3):
        began = time.process_time()
        function()
        spent.append(time.process_time() - began)
    return min(spent)


def wait_until(true, seconds=60):
    """Wait for something that must come; the deadline only ends a wait that is hopeless."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def tiny_llama(**changes):
    """Random Llama with grouped-query attention; the vocabulary is the CPU model's."""
    return tiny_model("llama", **changes)


# As those of Granite 4.1 8B: the scores' factor is that of its head width, the logits' divisor grows with its width.
GRANITE = {"attention_multiplier": 1 / 8, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 16.0}


def tiny_granite(**changes):
    """Random Granite, which differs from `tiny_llama` by four factors."""
    return tiny_model("granite", **(GRANITE | changes))


def tiny_experts(architecture, **changes):
    """Configuration of a small mixture of eight experts: "qwen3_moe", "mixtral" or "gpt_oss"."""
    from transformers import AutoConfig

    count = "num_experts" if architecture == "qwen3_moe" else "num_local_experts"
    settings = {
        "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 160, "moe_intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        count: 8, "num_experts_per_tok": 2, "pad_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    return AutoConfig.for_model(architecture, **(settings | changes))


def small_config(architecture="llama", **changes):
    """Configuration of three layers of 128, for what is counted and traced."""
    from transformers import AutoConfig

    settings = {
        "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    if architecture == "qwen3":
        settings["head_dim"] = 32
    return AutoConfig.for_model(architecture, **(settings | changes))


def tiny_model(architecture, **changes):
    """Random model of the CPU model's vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {
        "vocab_size": 49152,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "pad_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **(settings | changes))).eval()


def with_lora(model, rank=4, alpha=8, target_modules="all-linear", dropout=0.0, random_b=True, **more):
    """PEFT model whose B is not zero, so that the adapter does something."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=target_modules, lora_dropout=dropout, task_type="CAUSAL_LM", **more
    )
    model = get_peft_model(model, config)
    if random_b:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1)
    return model


def conversation(prompt="Where is my parcel?", completion='{"category": "delivery"}'):
    """Two messages and an answer."""
    return [
        {"role": "system", "content": "Triage this customer message."},
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]


PAIRS = [
    {
        "prompt": conversation(prompt)[:2],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }
    for prompt, chosen, rejected in [
        ("Where is my parcel?", "On its way", "I do not know and I will not look"),
        ("Is it blue?", "It is blue, yes", "No"),
        ("The kettle leaks and the floor is wet, what now?", "Sorry! We send you a new one today", "Mop it"),
    ]
]


def trl_tokenizer(pad="<|endoftext|>"):
    """A fresh one, since trainers change it; it does not pad with the stop token, so that searches for the end find it."""
    from transformers import AutoTokenizer

    from course_utils import models

    tokenizer = AutoTokenizer.from_pretrained(models.resolve(models.PACKAGED.name))
    tokenizer.pad_token = pad
    return tokenizer


def trl_arguments(kind, folder, **more):
    """A trainer's configuration: CPU, float32, all `PAIRS` in one batch."""
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": 3, "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "report_to": "none",
    }  # fmt: skip
    return kind(**settings | more)


def nudge(model, scale=0.05):
    """Move what is trained away from where it began, so that policy and reference differ."""
    import torch

    made = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += scale * torch.randn(weight.shape, generator=made)


def table_rows(printed, start):
    """Row name → column → cell of the `show.table` whose text begins with `start`: its caption, or its first header."""
    import re

    lines = printed[printed.index(f"\n{start}") + 1 :].splitlines()
    head = 0 if lines[0].startswith(f"{start}  ") else 1
    starts = [match.start() for match in re.finditer(r"\S+(?: \S+)*", lines[head])]
    rows = {}
    for line in lines[head + 1 :]:
        if line[starts[1] - 2 : starts[1]] != "  " or line.startswith(" "):  # the next output begins
            break
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], len(line)])]
        rows[cells[0]] = dict(zip(re.findall(r"\S+(?: \S+)*", lines[head])[1:], cells[1:]))
    return rows


def lesson_code(section, tag=None, constants=(), **given):
    """A lesson's imports, functions and classes as they stand in its cells, or in those with a tag; nothing else has run.

    `constants` are names whose assignments are taken, too; `given` is there before.
    """
    import ast

    import jupytext

    from course_utils import lessons

    space = dict(given)
    for cell in jupytext.read(lessons.source_file(lessons.find(section).name)).cells:
        if cell.cell_type == "code" and (tag is None or tag in cell.metadata.get("tags", [])):
            for node in ast.parse(cell.source).body:
                constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in constants
                if constant or isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
                    exec(compile(ast.Module([node], []), f"lesson {section}", "exec"), space)
    return space


def solution_lines(source):
    """The lines that a learner's stub lacks, stripped; an import gives nothing away."""
    from course_utils.exercises.definitions import strip_solution

    stub = strip_solution(source).splitlines()
    lines = [line.strip() for line in source.splitlines() if line not in stub]
    return [line for line in lines if line and not line.startswith(("###", "import ", "from "))]


def write_page(folder, with_python=True):
    """Write a page with all calculators and all exercises that a page can check, and its static files; returns the page."""
    from pathlib import Path

    import jinja2

    from course_utils.in_browser import on_page
    from course_utils.publishing import calculators, pyodide

    calculators.write_static(folder, pyodide.prepare() if with_python else None)
    template = jinja2.Template((Path(__file__).parent / "in_browser" / "page.html.j2").read_text(), autoescape=True)
    text = template.render(
        static=calculators.static(),
        style=calculators.STYLE,
        script=calculators.SCRIPT,
        calculators=[(part.title, calculators.fragment(id)) for id, part in calculators.CALCULATORS.items()],
        exercises=[(exercise.title, calculators.exercise_fragment(id)) for id, exercise in on_page().items()],
    )
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8")
    return page


def contrast(one, other):
    """WCAG 2's contrast ratio of two colours like #1f2933."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
