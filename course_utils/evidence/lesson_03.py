"""What lesson 03 shows and doesn't compute itself: recorded runs in 4 bits, others' timings, and passages of prose."""

from __future__ import annotations

import json

from course_utils import assets, facts
from course_utils.evidence import MODELS, lesson_02
from course_utils.show.tables import Table

MODEL = "0.5B"
WAYS = {
    "rules + 8 retrieved": "the best prompt: rules and 8 similar solved tickets",
    "LoRA, 240": "LoRA",
    "QLoRA, 240": "QLoRA",
    "full, 240": "full fine-tuning",
}


def recorded() -> Table:
    """Percent right of lesson 02's hundred test messages: the best prompt, LoRA, QLoRA and full fine-tuning on the 0.5B."""
    rows = {}
    for way, shown in WAYS.items():
        if runs := lesson_02.recorded_tickets(MODEL, way):
            shares = {measure: lesson_02.percent_right(runs, measure) for measure in lesson_02.MEASURES}
            rows[shown] = {"seeds": str(len(runs)), **shares}
    date = assets.read_record("laptop-tickets")["date"]
    caption = f"{MODELS[MODEL]}, percent right of 100 test messages [95 % interval], recorded {date}"
    return Table(rows, caption, "way", WAYS["QLoRA, 240"])


def passages() -> list[str]:
    """Return twelve short passages of everyday prose (`data/general`)."""
    with open(assets.path("data/general/passages.jsonl"), encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def published_pace() -> Table:
    """How much longer QLoRA takes than LoRA on GPUs, in percent, as others measured or state it."""
    published = [row for row in facts.table("published").values() if row["lesson"] == "03"]
    rows = {row["source"]: {"more time, %": f"{100 * (row['lora'] / row['qlora'] - 1):+.0f}"} for row in published}
    return Table(rows, f"QLoRA beside LoRA on GPUs, read by {min(row['date'] for row in published)}", "source", "")
