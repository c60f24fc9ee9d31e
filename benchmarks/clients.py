"""Which clients work with the local service, each in an environment of its own: a dated table.

    python benchmarks/clients.py [FOLDER]      where the environments are or will be; a temporary folder if left out

Each client is tested on what it offers: lifecycle (upload, job, model), stream, structured output, tools, responses. Needs a
package index, and npm for the Node client. The record names clients that could not be installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from common import write_results
from course_utils.openai_server import local_server

HERE = Path(__file__).parent / "clients"
CLIENTS = {
    "official, Python": ("official.py", ["openai"]),
    "official, Node": ("official.mjs", ["openai"]),
    "LiteLLM": ("litellm_.py", ["litellm"]),
    "LangChain": ("langchain_.py", ["langchain-openai"]),
    "instructor": ("instructor_.py", ["instructor"]),
    "Inspect": ("inspect_.py", ["inspect-ai", "openai"]),
    "LlamaIndex": ("llama_index_.py", ["llama-index-llms-openai-like"]),
    "lm-eval": ("lm_eval_.py", ["lm-eval[api]"]),
}
STEPS = ("lifecycle", "stream", "structured output", "tools", "responses")
CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Delhi", "Paris", "Quito", "Tokyo", "Dublin", "Athens", "Berlin", "Havana")
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}


def rows() -> bytes:
    """Twelve training conversations, each with a call to a weather tool."""
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather now.", "parameters": WEATHER}}
    conversations = []
    for number, city in enumerate(CITIES):
        function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        question = {"role": "user", "content": f"What is the weather like in {city}?"}
        conversations.append({"messages": [question, {"role": "assistant", "tool_calls": [call]}], "tools": [tool]})
    return "\n".join(map(json.dumps, conversations)).encode()


def train(server) -> str:
    """Train a model that calls the tool; returns its name."""
    import time

    client = server.client()
    file = client.files.create(file=("calls.jsonl", rows()), purpose="fine-tune")
    settings = {"n_epochs": 3, "batch_size": 4}
    job = client.fine_tuning.jobs.create(
        model=client.models.list().data[0].id,
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": settings}},
        seed=1,
    )
    while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
        time.sleep(0.5)
    assert job.fine_tuned_model, job.error
    return job.fine_tuned_model


def install(script: str, packages: list[str], folder: Path) -> tuple[list[str], str]:
    """Command that runs a client's script, and the client's version.

    Raises:
        subprocess.CalledProcessError: it could not be installed; `output` says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {"check": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 900}
    if script.endswith(".mjs"):
        subprocess.run(["npm", "install", "--silent", "--prefix", str(folder), *packages], **options)
        version = json.loads((folder / "node_modules" / packages[0] / "package.json").read_text())["version"]
        (folder / script).write_text((HERE / script).read_text())  # Node looks for modules beside the script
        return ["node", str(folder / script)], f"{packages[0]} {version}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], **options)
    names = [package.partition("[")[0] for package in packages]
    code = f"from importlib.metadata import version; print(', '.join(n + ' ' + version(n) for n in {names!r}))"
    version = subprocess.run([str(python), "-c", code], **options).stdout.strip().splitlines()[-1]
    return [str(python), str(HERE / script)], version


def ask(command: list[str], environment: dict[str, str]) -> dict[str, str]:
    """The result of each step of a client's script."""
    completed = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=900)
    lines = [line for line in completed.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {"start": f"broken: {(completed.stderr.strip().splitlines() or ['no message'])[-1][:300]}"}
    steps: dict[str, str] = json.loads(lines[-1])
    return dict.fromkeys(STEPS, "not tried: this client has no call for it") | steps


def main(folder: Path) -> None:
    """Test all clients and write the record."""
    results = {}
    with tempfile.TemporaryDirectory() as store, local_server(store) as server:
        environment = {"URL": server.base_url, "KEY": server.api_key, "MODEL": train(server)}
        environment["BASE"] = server.client().models.list().data[0].id
        (Path(store) / "rows.jsonl").write_bytes(rows())
        environment["ROWS"] = str(Path(store) / "rows.jsonl")
        for client, (script, packages) in CLIENTS.items():
            try:
                command, version = install(script, packages, folder / script.replace(".", "-"))
            except (subprocess.SubprocessError, OSError) as error:
                reason = (getattr(error, "output", None) or str(error)).strip().splitlines()[-1]
                results[client] = {"version": None, "not installed": reason[:300]}
            else:
                results[client] = {"version": version, **ask(command, environment)}
            print(client, json.dumps(results[client], indent=1), flush=True)
    write_results("clients", {"clients": results})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as temporary_folder:
            main(Path(temporary_folder))
