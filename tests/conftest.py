"""What tests share: a model small enough to build in a blink, and the packaged one, loaded once a process."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def packaged():
    """(model, tokenizer) of the CPU tier; tests must leave the model as they found it."""
    from course_utils import models

    return models.load(tier="cpu")


@pytest.fixture(scope="module")
def notebook(request):
    """The learner's notebook that the test module names in NOTEBOOK, with its stored outputs."""
    import nbformat

    from course_utils.notebooks import builder

    return nbformat.read(builder.learner_file(request.module.NOTEBOOK), as_version=4)


@pytest.fixture(scope="module")
def printed(notebook):
    """What the notebook's cells printed or showed, as text."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(map("".join, texts))


@contextmanager
def jupyter(command, home):
    """Address of a Jupyter server that `command` starts on a free port, without a token, with its settings in `home`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    places = {"JUPYTER_CONFIG_DIR": str(home), "JUPYTERLAB_WORKSPACES_DIR": str(home)}
    with (home / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], env=os.environ | places, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def tiny(packaged):
    """A new Llama of two layers with random weights in float32, and the real tokenizer."""
    return tiny_llama(), packaged[1]


def tiny_llama(**changes):
    """Random Llama with grouped-query attention; the vocabulary is the CPU model's."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()


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
