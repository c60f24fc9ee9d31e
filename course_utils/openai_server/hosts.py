"""Hosts of the same API: where they are, what differs, until when; the one cell in which a learner chooses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A service that the official client can drive.

    Attributes:
        name: the host's.
        base_url: for the client; None where the local server makes it at its start.
        key_variable: environment variable that holds the key.
        base_model: a model that can be tuned there.
        jobs: what of files, jobs, events and checkpoints works with the same code.
        differences: what code written for OpenAI meets there.
        dates: what ends when.
        checked: when this was read, and where.
    """

    name: str
    base_url: str | None
    key_variable: str | None
    base_model: str
    jobs: str
    differences: tuple[str, ...]
    dates: str
    checked: str


HOSTS = {
    "local": Host(
        name="this machine",
        base_url=None,
        key_variable=None,
        base_model="the tier's model",
        jobs="files, jobs, events, checkpoints, permissions, models, chat",
        differences=("a small model", "hyperparameters 'auto' are the course's own", "the adapter is a folder you can take"),
        dates="none",
        checked="runs in front of you",
    ),
    "openai": Host(
        name="OpenAI",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        base_model="gpt-4.1-mini-2025-04-14",
        jobs="files, jobs, events, checkpoints, permissions, models, chat",
        differences=("error 403 training_not_available for organisations that may not train any more",),
        dates="no new organisations since 2026-05-07; none without inference in 60 days since 2026-07-02; no new jobs for "
        "anyone from 2027-01-06; fine-tuned models live as long as their base",
        checked="2026-11, OpenAI's deprecations page",
    ),
    "azure": Host(
        name="Azure OpenAI / Foundry",
        base_url="https://YOUR-RESOURCE.openai.azure.com/openai/v1/",
        key_variable="AZURE_OPENAI_API_KEY",
        base_model="gpt-4.1-mini-2025-04-14",
        jobs="files, jobs, events, checkpoints",
        differences=(
            "training files are UTF-8 with a byte order mark",
            "suffix of at most 18 characters, ids like gpt-4.1-….ft-<hash>",
            "a fine-tuned model answers only once it has a deployment, made with another token",
            "the result file is plain CSV, with other columns",
        ),
        dates="training for existing customers until 2027-04 at least, deployments until 2027-10 (schedule of 2026-07-07)",
        checked="2026-07, Microsoft's documentation; a newer schedule exists that was not read",
    ),
    "nebius": Host(
        name="Nebius Token Factory",
        base_url="https://api.tokenfactory.nebius.com/v1/",
        key_variable="NEBIUS_API_KEY",
        base_model="meta-llama/Llama-3.1-8B-Instruct",
        jobs="files, jobs, events, checkpoints",
        differences=(
            "hyperparameters at the top level, and more of them (lora, lora_r, packing, warmup_ratio, weight_decay)",
            "learning_rate_multiplier is the learning rate itself, such as 2e-5",
            "jobs start as running, other event texts, files without status",
            "weights come as files of a checkpoint (result_files); a deployment of its own serves them",
        ),
        dates="none announced",
        checked="2026-08, the host's own notebooks",
    ),
    "crusoe": Host(
        name="Crusoe Intelligence Foundry",
        base_url="https://api.intelligence.crusoecloud.com/v1",
        key_variable="CRUSOE_API_KEY",
        base_model="meta-llama/Llama-3.1-8B-Instruct",
        jobs="files and jobs; events and checkpoints were not checked",
        differences=("JSONL or Parquet of up to 3 GB", "checkpoints are LoRA adapters"),
        dates="none announced",
        checked="2026-11, the host's documentation; not run by us",
    ),
}
