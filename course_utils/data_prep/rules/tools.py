"""Rules for tools: their declarations, calls and answers."""

from __future__ import annotations

import json

from course_utils.data_prep.findings import shorten
from course_utils.data_prep.rules.base import NAME, RowRules, type_of


class ToolRules(RowRules):
    """Rules for the functions that a row declares, the assistant's calls of them, and their answers."""

    def tools(self, row: dict) -> set | None:
        """Check the row's tools, and return the names of the declared functions.

        Returns:
            An empty set if the row has no tools; None if they cannot be read.
        """
        tools = row.get("tools")
        if tools is None:
            return set() if "tools" not in row else None
        if not isinstance(tools, list):
            self.add("tools", "tools_invalid", f"tools must be a list, but is {type_of(tools)}")
            return None
        names: set[str] = set()
        readable = True
        for index, tool in enumerate(tools):
            path = f"tools[{index}]"
            function = tool.get("function") if isinstance(tool, dict) else None
            name = function.get("name") if isinstance(function, dict) else None
            if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(function, dict):
                self.add(path, "tools_invalid", 'a tool must have the type "function" and an object "function"')
                readable = False
            elif not isinstance(name, str) or not NAME.fullmatch(name):
                self.add(f"{path}.function.name", "name_invalid", f"the function's name is {shorten(name)}")
                readable = False
            else:
                if name in names:
                    self.add(f"{path}.function.name", "tools_duplicate", f"{name} is declared twice")
                names.add(name)
                self.parameters(function, f"{path}.function")
        return names if readable else None

    def parameters(self, function: dict, path: str) -> None:
        """Report what is wrong with a function's schema."""
        parameters = function.get("parameters")
        if parameters is None:
            return
        if not isinstance(parameters, dict):
            self.add(
                f"{path}.parameters", "tools_invalid", f"parameters must be a JSON Schema, but is {type_of(parameters)}"
            )
        elif parameters.get("type", "object") != "object":
            self.add(
                f"{path}.parameters.type", "tools_invalid", f"must be 'object', but is {shorten(parameters.get('type'))}"
            )
        elif not isinstance(parameters.get("properties", {}), dict):
            self.add(f"{path}.parameters.properties", "tools_invalid", "must be an object")
        elif "required" in parameters:
            required = parameters["required"]
            properties = parameters.get("properties", {})
            if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
                self.add(f"{path}.parameters.required", "tools_invalid", "must be a list of names")
            elif missing := [name for name in required if name not in properties]:
                self.add(
                    f"{path}.parameters.required",
                    "tools_invalid",
                    f"requires {shorten(missing[0])}, which is not in properties",
                )

    def tool_calls(self, message: dict, where: str, tools: set | None, called: dict) -> dict[str, str]:
        """Check the calls of a message, and return the id of each call → its path in the row."""
        if "tool_calls" not in message or message["tool_calls"] is None:
            return {}
        calls, path = message["tool_calls"], f"{where}.tool_calls"
        if not isinstance(calls, list) or not calls:
            self.add(path, "tool_calls_invalid", f"must be a list of calls, but is {type_of(calls) if calls else 'empty'}")
            return {}
        ids: dict[str, str] = {}
        for index, call in enumerate(calls):
            call_path = f"{path}[{index}]"
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict):
                self.add(call_path, "tool_calls_invalid", 'the call has no object "function"')
                continue
            if call.get("type") != "function":
                self.add(
                    f"{call_path}.type",
                    "tool_calls_invalid",
                    f"the type must be 'function', but is {shorten(call.get('type'))}",
                )
            identity = call.get("id")
            if not isinstance(identity, str) or not identity:
                self.add(f"{call_path}.id", "tool_call_id", f"the call's id is {shorten(identity)}")
            elif identity in called or identity in ids:
                self.add(f"{call_path}.id", "tool_call_id", f"the id {shorten(identity)} was used before")
            else:
                ids[identity] = call_path
            name = function.get("name")
            if not isinstance(name, str) or not name:
                self.add(f"{call_path}.function.name", "tool_calls_invalid", f"the function's name is {shorten(name)}")
            elif tools is not None and name not in tools:
                self.add(f"{call_path}.function.name", "tool_unknown", f"{shorten(name)} is not declared in tools")
            self.arguments(function, f"{call_path}.function.arguments")
        return ids

    def arguments(self, function: dict, path: str) -> None:
        """Report what is wrong with a call's arguments."""
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            missing = "arguments" not in function
            # Your own trainer accepts an object, because chat templates print it as JSON.
            if missing or not (self.target == "trl" and isinstance(arguments, dict)):
                what = "arguments are missing" if missing else f"arguments must be text, but are {type_of(arguments)}"
                self.add(path, "tool_calls_invalid" if missing else "arguments_type", what)
            return
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            self.add(path, "arguments_not_json", f"the text is not JSON: {shorten(arguments, 40)}")
            return
        if not isinstance(value, dict):
            self.add(path, "arguments_not_json", f"the JSON in the text is {type_of(value)}, not an object")

    def tool_answer(self, message: dict, where: str, called: dict, waiting: dict) -> None:
        """Report what is wrong with a tool's answer, and take its call from `waiting`."""
        identity = message.get("tool_call_id")
        if not isinstance(identity, str):
            code = "field_missing" if identity is None else "field_type"
            self.add(
                f"{where}.tool_call_id", code, f"tool_call_id is {'missing' if identity is None else shorten(identity)}"
            )
        elif identity not in called:
            self.add(f"{where}.tool_call_id", "tool_answer_unknown", f"no earlier call has the id {shorten(identity)}")
        elif identity not in waiting:
            self.add(
                f"{where}.tool_call_id", "tool_answer_unknown", f"the call {shorten(identity)} has already been answered"
            )
        else:
            del waiting[identity]
