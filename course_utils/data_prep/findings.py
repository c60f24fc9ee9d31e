"""What can be wrong with a training file: one code for each fault, with its severity and how to fix it.

An error is something that a host refuses, or that trains the wrong behaviour. A warning is something that a host accepts
although it is usually a mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any

ERROR, WARNING = "error", "warning"

# code → (severity, how to fix it, whether `course check-data --fix` fixes it without losing anything)
CODES: dict[str, tuple[str, str, bool]] = {
    # the file
    "empty_file": (ERROR, "export again; there are no rows in it", False),
    "binary": (ERROR, "unpack or convert it first: a training file is text, one JSON object per line", False),
    "too_few_rows": (ERROR, "add examples: a fine-tuning job needs 10, a useful one 50 to 100", False),
    "file_too_large": (ERROR, "split the file, or use the Uploads interface (8 GB)", False),
    "file_name": (WARNING, "rename it to end in .jsonl; the host refuses other endings", False),
    "wrong_kind": (ERROR, "name the right kind (--kind), or convert the file", False),
    # bytes and lines
    "byte_order_mark": (ERROR, "save as UTF-8 without a byte order mark (only Azure asks for one)", True),
    "encoding": (ERROR, "save the file as UTF-8, as `course check-data --fix` does", True),
    "not_utf8": (ERROR, "find out which encoding it is in, and save it as UTF-8", False),
    "line_ending": (WARNING, "end lines with only a line feed", True),
    "wrapped": (WARNING, "write only the rows, one object per line", True),
    "several_lines": (ERROR, "put each object on one line", True),
    "blank_line": (WARNING, "remove the line", True),
    "line_too_long": (ERROR, "remove the row, or whatever makes it so long (an embedded file, a log)", False),
    # JSON
    "not_json": (ERROR, "write the row with a JSON library instead of by hand", False),
    "several_objects": (ERROR, "put each object on a line of its own", False),
    "not_object": (ERROR, "make the row an object with named fields", False),
    "too_deep": (ERROR, "flatten the row: no trainer reads anything nested this deeply", False),
    "duplicate_key": (ERROR, "keep one of the two; readers disagree about which one counts", False),
    "not_finite": (ERROR, "write null or a number; JSON has no NaN or Infinity", False),
    "number_too_long": (ERROR, "write the number as text", False),
    "lone_surrogate": (ERROR, "remove it: it is half of a character that was cut in two, and can't be encoded", False),
    "control_character": (ERROR, "remove it; only tabs and line feeds belong in text", True),
    "replacement_character": (
        WARNING,
        "export again with the right encoding; a character has already been lost here",
        False,
    ),
    "invisible_character": (WARNING, "remove it unless the language needs it; the tokenizer sees it, people don't", True),
    # a row
    "unknown_shape": (ERROR, "convert the row to messages, prompt/completion or prompt/chosen/rejected", False),
    "other_shape": (ERROR, "convert it: `course check-data --fix` writes the usual shapes as messages", True),
    "mixed_shapes": (ERROR, "convert all rows to one shape", False),
    "extra_key": (ERROR, "remove the field, or keep it as metadata elsewhere", True),
    "field_in_use": (
        ERROR,
        "--target trl keeps it; otherwise decide yourself: without it the row teaches something else",
        False,
    ),
    "null_field": (ERROR, "leave the field out", True),
    "list_as_text": (ERROR, "write a list of objects", True),
    "call_without_id": (ERROR, "give each call an id, and put the same id into its answer as tool_call_id", True),
    "label_type": (ERROR, "write true for a good answer and false for a bad one", True),
    "not_hosted": (WARNING, "train with TRL's KTOTrainer; OpenAI has no job for labelled answers", False),
    "field_missing": (ERROR, "add the field", False),
    "field_type": (ERROR, "give the field the type that the message names", False),
    "field_empty": (ERROR, "fill it, or remove the row", False),
    "messages_empty": (ERROR, "remove the row", False),
    "prompt_missing": (ERROR, "add the user's message: there is nothing the answer could depend on", False),
    "no_assistant": (ERROR, "add the answer, or remove the row: without one nothing is learned", False),
    "nothing_trained": (ERROR, "give at least one assistant message weight 1, or remove the row", False),
    "last_not_assistant": (WARNING, "cut the conversation after the last answer", False),
    "role_missing": (ERROR, "give each message a role", False),
    "role_unknown": (ERROR, "use system, developer, user, assistant or tool", False),
    "role_order": (WARNING, "check that no message is missing or repeated", False),
    "system_not_first": (WARNING, "put it first; many chat templates drop or refuse it elsewhere", False),
    "content_missing": (ERROR, "add content; only an assistant message with tool calls may have none", False),
    "content_type": (ERROR, "write content as text, or as a list of parts that each have a type", False),
    "content_empty": (ERROR, "remove the message or the row; the model would learn to say nothing", False),
    "content_part": (ERROR, "use parts of type text (in user messages also image_url, input_audio and file)", False),
    "image_url": (ERROR, "give an address that begins with https://, or the picture as data:image/png;base64,…", False),
    "image_too_large": (ERROR, "make the picture smaller: the limit is 10 MB", False),
    "too_many_images": (ERROR, "split the row: an example may have at most 10 pictures", False),
    "edge_whitespace": (
        WARNING,
        "strip it; a model that is taught to begin with a space begins every answer with one",
        True,
    ),
    "special_token": (ERROR, "remove it: a control token in text opens or ends a turn where none should", False),
    "name_invalid": (ERROR, "use 1 to 64 letters, digits, underscores or hyphens", False),
    "weight_invalid": (ERROR, "use 0 or 1", False),
    "weight_role": (ERROR, "remove it: only assistant messages are trained on", True),
    "tool_calls_role": (ERROR, "only assistant messages call tools", False),
    "tool_calls_invalid": (ERROR, 'write a list of {"id", "type": "function", "function": {"name", "arguments"}}', False),
    "tool_call_id": (ERROR, "give each call an id of its own", False),
    "arguments_type": (ERROR, "write the arguments as text that contains a JSON object", True),
    "arguments_not_json": (ERROR, "fix the JSON inside the text; the model learns to write exactly this", False),
    "tool_unknown": (ERROR, "declare the function in tools, or correct its name", False),
    "tool_answer_unknown": (ERROR, "let tool_call_id refer to a call made earlier in the row", False),
    "tool_answer_missing": (ERROR, "add the tool's answer before the next turn", False),
    "tools_invalid": (ERROR, 'write a list of {"type": "function", "function": {"name", "parameters"}}', False),
    "tools_duplicate": (ERROR, "declare each function once", False),
    "functions_deprecated": (WARNING, "use tools and tool_calls", False),
    "too_many_tokens": (ERROR, "shorten it: whatever is over the limit is cut off silently", False),
    # preferences
    "preference_output": (ERROR, "give exactly one assistant message with text", False),
    "preference_prompt": (ERROR, "end the prompt with the user's message", False),
    "preference_text_only": (ERROR, "use only text: preference tuning takes no pictures, sound or files", False),
    "preference_turns": (
        WARNING,
        "keep one question and its two answers: preference tuning is documented for one turn",
        False,
    ),
    "preference_same": (ERROR, "remove the row: there is nothing to prefer", False),
    "preference_repeats_prompt": (WARNING, "take the prompt out of chosen and rejected", False),
}


@dataclass(frozen=True)
class Finding:
    """One fault in a training file.

    Attributes:
        line: line in the file, from 1 (in a CSV, Parquet or JSON file: row); 0 for the file as a whole.
        field: where in the row, such as "messages[2].content"; "" for the whole row.
        code: one of `CODES`.
        message: what is wrong, with the value that is wrong.
        details: facts from the message that programs need ("key", "token", "index" of the message).
    """

    line: int
    field: str
    code: str
    message: str
    details: Mapping[str, Any] = dataclass_field(default_factory=dict, compare=False)

    @property
    def severity(self) -> str:
        """How serious the fault is: "error" or "warning"."""
        return CODES[self.code][0]

    @property
    def fix(self) -> str:
        """What to do about the fault."""
        return CODES[self.code][1]

    @property
    def fixable(self) -> bool:
        """Whether `--fix` can repair the fault without losing anything."""
        return CODES[self.code][2]

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else "file"
        return f"{where}{', ' + self.field if self.field else ''}: {self.message} [{self.code}]; {self.fix}"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain values that can be written as JSON."""
        return {
            "line": self.line,
            "field": self.field,
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "fix": self.fix,
        }


def shorten(value: object, limit: int = 60) -> str:
    """Return a value as it is quoted in a message: on one line, cut to length, and printable whatever it contains."""
    text = repr(value[: limit + 1] if isinstance(value, str) else value) if not isinstance(value, dict | list) else ""
    if isinstance(value, dict):
        text = "{" + ", ".join(repr(str(key)[:20]) for key in list(value)[:5]) + (", …}" if len(value) > 5 else "}")
    elif isinstance(value, list):
        text = f"a list of length {len(value)}"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"
