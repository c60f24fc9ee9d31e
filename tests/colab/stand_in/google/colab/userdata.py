"""Stands for Colab's secrets: the JSON object in COLAB_SECRETS; null is one that this notebook may not read."""

import json
import os


class NotebookAccessError(Exception):
    """The secret is there, and its owner did not give it to this notebook."""


class SecretNotFoundError(Exception):
    """There is no secret of that name."""


def get(key):
    """Return a secret, as Colab does."""
    secrets = json.loads(os.environ.get("COLAB_SECRETS", "{}"))
    if key not in secrets:
        raise SecretNotFoundError(f"Secret {key} does not exist.")
    if secrets[key] is None:
        raise NotebookAccessError(f"Notebook does not have access to secret {key}")
    return secrets[key]
