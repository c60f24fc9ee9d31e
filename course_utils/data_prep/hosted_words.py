"""How a fine-tuning job fails at OpenAI: messages from its documentation, and from failed jobs that users published.

There, examples and messages are counted from 1. Everything is built from the fields of findings, never from their sentences.
"""

from __future__ import annotations

from typing import NamedTuple

from course_utils.data_prep.findings import Finding

INVALID = "The job failed due to an invalid training file."
FORMAT_ERROR = "The job failed due to a file format error in the training file."


class JobError(NamedTuple):
    """An error of a job, as the API reports it.

    Attributes:
        code: the API's code.
        message: the API's message.
        names_file: whether the API's message names the file, after "Input file".
    """

    code: str
    message: str
    names_file: bool = False

    def about(self, file_id: str) -> str:
        """Return the message about a particular file; a message that names the file ends in a space, as the API's does."""
        return self.message.replace("Input file is", f"Input file {file_id} is") + " " if self.names_file else self.message


def job_error(finding: Finding, example: int, kind: str) -> JobError | None:
    """Return the error with which a hosted job fails at a finding, or None if its words are not known.

    Args:
        finding: the fault.
        example: number of the example that has it, from 1.
        kind: the kind of the rows.
    """
    details = finding.details
    if finding.code == "role_missing":
        where = f"Example {example}, message {details['index'] + 1}"
        return JobError(
            "invalid_training_file", f"{INVALID} Invalid file format. {where} Discriminator 'role' is missing in value"
        )
    if finding.code == "unknown_shape":
        expected = "expected either prompt/completion pairs or chat messages."
        return JobError("invalid_training_file", f"{INVALID} Unexpected file format, {expected}")
    if finding.code in ("extra_key", "weight_role"):
        key = details.get("key", "weight")
        return JobError(
            "invalid_file_format", f'{FORMAT_ERROR} Invalid file format. Example {example} contains an extra "{key}".'
        )
    if finding.code == "special_token":
        token = f"message contains an invalid token: {details['token']}."
        return JobError("invalid_file_format", f"{FORMAT_ERROR} Invalid file format. Example {example} {token}")
    if finding.code == "wrong_kind" and kind == "preference":
        words = (
            f"{INVALID} Invalid file format. Input file is in the fine-tune-chat format, but the specified fine-tuning job "
            "is not using 'supervised' as the training method (provided method=dpo)."
        )
        return JobError("invalid_training_file", words, names_file=True)
    return None


def too_few(examples: int, least: int) -> JobError:
    """Return the error of a job that has fewer examples than the least number allowed."""
    return JobError(
        "invalid_n_examples", f"Training file has {examples} example(s), but must have at least {least} examples"
    )
