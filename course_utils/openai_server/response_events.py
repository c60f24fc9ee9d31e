"""Converts the pieces of a chat into the Responses API's typed events, in order; the last one has the whole response."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from course_utils.openai_server.completions import Piece, new_call_id
from course_utils.openai_server.errors import ApiError
from course_utils.openai_server.responses import usage
from course_utils.openai_server.store import random_letters

if TYPE_CHECKING:
    from course_utils.openai_server.completions import Completion

Event = dict[str, Any]


class Events:
    """The events of one response that is being generated.

    Args:
        body: the response as created by `responses.frame`; it is filled in.
        completion: the chat completion that generates it.
        keep: called with the response once it has ended without an error; None if it is not to be stored.
    """

    def __init__(
        self, body: dict[str, Any], completion: Completion, keep: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.body, self.completion, self.keep = body, completion, keep
        self._number = -1
        self._item: dict[str, Any] | None = None  # the item in progress
        self._error: ApiError | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Yield every event; an error on the way is an event too."""
        yield self._event("response.created", response=_copy(self.body))
        yield self._event("response.in_progress", response=_copy(self.body))
        truncated = False
        try:
            async for piece in self.completion.pieces():
                truncated = truncated or piece.reason == "length"
                for event in self._piece_events(piece):
                    yield event
        except ApiError as error:
            self._error = error
            self.body |= {"status": "failed", "error": {"code": "server_error", "message": str(error)}}
            yield self._event("response.failed", response=_copy(self.body))
            return
        if not self.body["output"]:
            for event in self._begin_text():
                yield event
        for event in self._finish_item("incomplete" if truncated else "completed"):
            yield event
        self.body["usage"] = usage(self.completion.usage)
        self.body["status"] = "incomplete" if truncated else "completed"
        if truncated:
            self.body["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.body["completed_at"] = int(time.time())
        response = _copy(self.body)
        if self.keep:
            self.keep(response)
        yield self._event(f"response.{self.body['status']}", response=response)

    async def stream(self) -> AsyncIterator[str]:
        """Yield the events in the form of server-sent events."""
        async for event in self.events():
            yield f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"

    async def whole(self) -> dict[str, Any]:
        """Wait for the end, and return the response as one document.

        Raises:
            ApiError: the engine failed.
        """
        async for _ in self.events():
            pass
        if self._error is not None:
            raise self._error
        return self.body

    def _piece_events(self, piece: Piece) -> Iterator[Event]:
        described = self.completion.token_logprobs(piece.tokens)
        in_text = self._item is not None and self._item["type"] == "message"
        if piece.text or (described and not piece.calls and in_text):
            if not in_text:
                yield from self._begin_text()
            yield from self._more_text(piece.text, described)
        for call in piece.calls:
            item = {"id": f"fc_{random_letters(48)}", "type": "function_call", "status": "in_progress"}
            yield from self._begin_item({**item, "arguments": "", "call_id": new_call_id(), "name": call.name})
            self.body["output"][-1]["arguments"] = call.arguments
            yield self._event("response.function_call_arguments.delta", **self._position(), delta=call.arguments)

    def _begin_text(self) -> Iterator[Event]:
        item = {"id": f"msg_{random_letters(48)}", "type": "message", "status": "in_progress", "role": "assistant"}
        yield from self._begin_item({**item, "content": []})
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        self.body["output"][-1]["content"].append(part)
        yield self._event("response.content_part.added", **self._position(), content_index=0, part=_copy(part))

    def _more_text(self, text: str, logprobs: list[dict[str, Any]]) -> Iterator[Event]:
        part = self.body["output"][-1]["content"][0]
        part["text"] += text
        part["logprobs"] = [*part["logprobs"], *logprobs]
        yield self._event(
            "response.output_text.delta",
            **self._position(),
            content_index=0,
            delta=text,
            logprobs=[_short(token) for token in logprobs],
        )

    def _begin_item(self, item: dict[str, Any]) -> Iterator[Event]:
        yield from self._finish_item("completed")
        self._item = item
        self.body["output"].append(item)
        yield self._event("response.output_item.added", output_index=self._index, item=_copy(item))

    def _finish_item(self, status: str) -> Iterator[Event]:
        """Finish the item in progress."""
        item, position = self._item, self._position()
        if item is None:
            return
        if item["type"] == "message":
            part = item["content"][0]
            final_fields = {"text": part["text"], "logprobs": [_short(token) for token in part["logprobs"]]}
            yield self._event("response.output_text.done", **position, content_index=0, **final_fields)
            yield self._event("response.content_part.done", **position, content_index=0, part=_copy(part))
        else:
            final_fields = {"arguments": item["arguments"], "name": item["name"]}  # the client required the name until 2.x
            yield self._event("response.function_call_arguments.done", **position, **final_fields)
        item["status"] = status
        yield self._event("response.output_item.done", output_index=self._index, item=_copy(item))
        self._item = None

    @property
    def _index(self) -> int:
        return len(self.body["output"]) - 1

    def _position(self) -> dict[str, Any]:
        return {"item_id": self._item["id"], "output_index": self._index} if self._item else {}

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def _copy(value: dict[str, Any]) -> dict[str, Any]:
    """A copy of a document as it is now: later changes must not show in earlier events."""
    return copy.deepcopy(value)


def _short(token: dict[str, Any]) -> dict[str, Any]:
    """A token's log-probabilities as events have them: without bytes."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": tops}
