"""A run of `synthesise` in a process of its own, to be killed: base_url and ledger are its arguments."""

import sys

from course_utils.data_prep.endpoint import Price, client_for
from course_utils.data_prep.synthesis import Plan, synthesise

SCHEMA = {
    "type": "object",
    "properties": {
        "examples": {
            "type": "array",
            "minItems": 2,
            "items": {
                "type": "object",
                "properties": {"message": {"type": "string"}, "label": {"enum": ["a", "b"]}},
                "required": ["message", "label"],
            },
        }
    },
    "required": ["examples"],
}
PLAN = Plan(
    topics=tuple(f"topic {i}" for i in range(10)),
    meta_prompt="Two examples about {topic}, please.",
    schema=SCHEMA,
    requests_per_topic=6,
    model="recorded",
    price=Price(1000.0, 5000.0),
    max_tokens=60,
)

if __name__ == "__main__":
    print(synthesise(PLAN, client_for(sys.argv[1], "none"), sys.argv[2], budget=float(sys.argv[3]), workers=4))
