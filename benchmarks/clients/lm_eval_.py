"""lm-eval's `local-chat-completions` on a task of its own: a question in a file."""

import json
import tempfile
from pathlib import Path

from steps import BASE, KEY, URL, step


@step("evaluation")
def _():
    import os

    os.environ["OPENAI_API_KEY"] = KEY
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = Path(tempfile.mkdtemp())
    rows = [{"question": "What is the capital of France?", "answer": "Paris"}] * 3
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "capitals",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    made = lm_eval.simple_evaluate(
        model="local-chat-completions",
        model_args={"model": BASE, "base_url": f"{URL}/chat/completions", "num_concurrent": 2, "max_retries": 1},
        tasks=[task],
        task_manager=TaskManager(),
        apply_chat_template=True,
        log_samples=True,
    )
    assert all(sample["resps"][0][0] for sample in made["samples"]["capitals"]), made["samples"]
