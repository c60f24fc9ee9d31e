"""Hosts of the same API: their addresses, their differences and their end dates. A learner chooses one in a single cell."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """A service that the official client can drive.

    Attributes:
        name: name of the host.
        base_url: the client's base URL; None for the local server, which chooses it when it starts.
        key_variable: environment variable that holds the key.
        base_model: a model that can be tuned there.
        methods: training methods for that model, by the API's names.
        weights: whether the trained weights can be downloaded.
        jobs: which of files, jobs, events and checkpoints work with the same code.
        differences: differences that code written for OpenAI will meet.
        ends: when models tuned from the base stop answering.
        dates: other end dates, and their sources.
        checked: when and where this was read.
    """

    name: str
    base_url: str | None
    key_variable: str | None
    base_model: str
    methods: tuple[str, ...]
    weights: bool
    jobs: str
    differences: tuple[str, ...]
    ends: str
    dates: str
    checked: str


HOSTS = {
    "local": Host(
        name="this machine",
        base_url=None,
        key_variable=None,
        base_model="the tier's model",
        methods=("supervised", "dpo"),
        weights=True,
        jobs="files, jobs, events, checkpoints, permissions, models, chat",
        differences=("a small model", "hyperparameters 'auto' are the course's own", "the adapter is a folder you can take"),
        ends="you delete it",
        dates="none",
        checked="runs in front of you",
    ),
    "openai": Host(
        name="OpenAI",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        base_model="gpt-4.1-mini-2025-04-14",
        methods=("supervised", "dpo"),
        weights=False,
        jobs="files, jobs, events, checkpoints, permissions, models, chat",
        differences=("error 403 training_not_available for organisations that may not train any more",),
        ends="2027-01-14",
        dates="no new organisations since 2026-05-07; none without inference in 60 days since 2026-07-02; no new jobs for "
        "anyone from 2027-01-06; fine-tuned models live as long as their base. That gpt-4.1, gpt-4.1-mini, gpt-4o and "
        "gpt-4o-mini end on 2027-01-14 is what third parties report of OpenAI's notice of 2026-10-14; they agree",
        checked="2026-11, OpenAI's deprecations page; the notice itself was not read",
    ),
    "azure": Host(
        name="Azure OpenAI / Foundry",
        base_url="https://YOUR-RESOURCE.openai.azure.com/openai/v1/",
        key_variable="AZURE_OPENAI_API_KEY",
        base_model="gpt-4.1-mini-2025-04-14",
        methods=("supervised", "dpo", "reinforcement"),  # the last for o4-mini: Microsoft's Foundry blog, 2025-09-10
        weights=False,
        jobs="files, jobs, events, checkpoints",
        differences=(
            "reinforcement fine-tuning for one reasoning model, o4-mini",
            "training files are UTF-8 with a byte order mark",
            "suffix of at most 18 characters, ids like gpt-4.1-….ft-<hash>",
            "a model, tuned or not, answers only once it has a deployment, made with another token",
            "the result file is plain CSV, with other columns",
        ),
        ends="2027-10-14",
        dates="the base retires on 2027-04-14, training from it no earlier (Microsoft's schedule of 2026-09-02; that of "
        "2026-07-07 had the base retire on 2026-10-14, so look again)",
        checked="Microsoft's schedule in a public copy; its documentation of the calls, 2025-09; not run by us",
    ),
    "nebius": Host(
        name="Nebius Token Factory",
        base_url="https://api.tokenfactory.nebius.com/v1/",
        key_variable="NEBIUS_API_KEY",
        base_model="meta-llama/Llama-3.1-8B-Instruct",
        methods=("supervised",),
        weights=True,
        jobs="files, jobs, events, checkpoints",
        differences=(
            "hyperparameters at the top level, and more of them (lora, lora_r, packing, warmup_ratio, weight_decay)",
            "learning_rate_multiplier is the learning rate itself, such as 2e-5",
            "jobs start as running, other event texts, files without status",
            "weights come as files of a checkpoint (result_files); a deployment of its own serves them",
            "the base answers under another name, meta-llama/Meta-Llama-3.1-8B-Instruct",
        ),
        ends="no date found",
        dates="none announced",
        checked="2026-08, the host's own notebooks, which train on conversations only; not run by us",
    ),
    "crusoe": Host(
        name="Crusoe Intelligence Foundry",
        base_url="https://api.intelligence.crusoecloud.com/v1",
        key_variable="CRUSOE_API_KEY",
        base_model="meta-llama/Llama-3.1-8B-Instruct",
        methods=("supervised",),
        weights=True,
        jobs="files and jobs; events and checkpoints were not checked",
        differences=(
            "JSONL or Parquet of up to 3 GB",
            "checkpoints are LoRA adapters, to download or to deploy; a model answers only once it is deployed",
            "whether this base can be tuned there was not checked: client.models.list() says which can",
        ),
        ends="no date found",
        dates="none announced",
        checked="2026-11, the host's documentation, which knows supervised LoRA training only; not run by us",
    ),
}
