"""How a fine-tuning job fails at OpenAI: the messages of its documentation, and of failed jobs that users published.

Examples and messages are counted from 1 there. Everything is made from what findings carry, never from their sentences.
"""

from __future__ import annotations

from typing import NamedTuple

from course_utils.data_prep.findings import Finding

INVALID = "The job failed due to an invalid training file."
FORMAT_ERROR = "The job failed due to a file format error in the training file."


class JobError(NamedTuple):
    """An error of a job, as the API tells it.

    Attributes:
        code: the API's.
        message: its words.
        names_file: whether the words name the file, after "Input file".
    """

    code: str
    message: str
    names_file: bool = False

    def about(self, file_id: str) -> str:
        """The words about a file of the service; where they name it, they end in a space there too."""
        return self.message.replace("Input file is", f"Input file {file_id} is") + " " if self.names_file else self.message


def job_error(finding: Finding, example: int, kind: str) -> JobError | None:
    """The error of a job for rows of a kind whose example number `example` has this finding; None if it is not known."""
    details = finding.details
    if finding.code == "role_missing":
        where = f"Example {example}, message {details['index'] + 1}"
        return JobError(
            "invalid_training_file", f"{INVALID} Invalid file format. {where} Discriminator 'role' is missing in value"
        )
    if finding.code == "unknown_shape":
        wanted = "expected either prompt/completion pairs or chat messages."
        return JobError("invalid_training_file", f"{INVALID} Unexpected file format, {wanted}")
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
    """The error of a job with too few examples."""
    return JobError(
        "invalid_n_examples", f"Training file has {examples} example(s), but must have at least {least} examples"
    )
