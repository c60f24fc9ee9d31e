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
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=2)
                break
            except OSError:
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


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
