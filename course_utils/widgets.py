"""Interactive figures, each with a plain function that draws the same figure without a widget.

A widget works only while a kernel and a front end are connected. In a stored notebook, on paper and without ipywidgets, the
plain figure with its alt text is shown instead.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from course_utils import charts, costs, decision, figures, memory
from course_utils.errors import CourseError

if TYPE_CHECKING:
    import ipywidgets
    from transformers import PretrainedConfig, PreTrainedModel

METHOD_NAMES = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
FINE_TUNING_METHODS = tuple(METHOD_NAMES)
MODEL_CHOICES = (
    "SmolLM2-135M",
    "SmolLM2-1.7B",
    "Llama-2-7B",
    "Mistral-7B-v0.3",
    "Llama-3.1-8B",
    "Llama-2-13B",
    "Llama-3.1-70B",
)
LENGTH_CHOICES = (128, 256, 512, 1024, 2048, 4096, 8192)
RANK_CHOICES = (4, 8, 16, 32, 64, 128, 256)
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def memory_bars(
    model: str | PretrainedConfig | PreTrainedModel,
    methods: tuple[str, ...] = FINE_TUNING_METHODS,
    gpus: tuple[str, ...] = ("t4", "a100"),
    **options: Any,
) -> figures.Figure:
    """Memory of a training step by each method, in parts, compared with the memory of GPUs.

    Args:
        model: as `memory.estimate` takes it.
        methods: "full", "lora", "qlora".
        gpus: names in `memory.GPUS`.
        options: further fields of `memory.StepPlan`; they must be valid for all methods (a 4-bit base can't have precision
            "fp32"). Without a precision among them, full fine-tuning is counted in mixed precision, whose trained weights
            have 32 bits, and a frozen base in 16 bits.

    Returns:
        Figure with stacked bars in GB.

    Raises:
        CourseError: as `memory.estimate`, or an unknown GPU.
    """
    bars = {}
    for method in methods:
        estimate = memory.estimate(model, method, **({"precision": "amp"} if method == "full" else {}) | options)
        parts = dict(estimate.rows())
        bars[METHOD_NAMES[method]] = {
            "weights": (parts["weights"] + parts["other models"]) / 1e9,
            "what is trained, with its states": (parts["adapter"] + parts["gradients"] + parts["optimizer"]) / 1e9,
            "activations and logits": (parts["activations"] + parts["logits"]) / 1e9,
            "the card's own needs": parts["overhead"] / 1e9,
        }
    plan = estimate.plan
    title = f"{estimate.model}: a step of {plan.batch_size} × {plan.length:,} tokens, rank {plan.rank}"
    title += ", checkpointing" if plan.checkpointing else ""
    limits = {gpu.upper(): memory.gpu_memory(gpu) / 1e9 for gpu in gpus}
    return charts.stacked(bars, title, "GB", limits)


class MemoryExplorer:
    """`memory_bars` with controls for model, method, rank, batch, length and checkpointing.

    Attributes:
        controls: name → ipywidgets control; empty if ipywidgets is missing.
        picture: the widget that shows the figure, or None.
    """

    def __init__(self, model: str = "Llama-3.1-8B", method: str = "all", rank: int = 16, batch_size: int = 1,
                 length: int = 1024, checkpointing: bool = True) -> None:  # fmt: skip
        self.choices: dict[str, Any] = {
            "model": model, "method": method, "rank": rank, "batch_size": batch_size, "length": length,
            "checkpointing": checkpointing,
        }  # fmt: skip
        self.figure = self._draw()
        self.controls: dict[str, ipywidgets.Widget] = {}
        self.picture: ipywidgets.HTML | None = None
        self._box: ipywidgets.VBox | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        style = {"style": {"description_width": "7em"}, "continuous_update": False}
        models = MODEL_CHOICES if model in MODEL_CHOICES else (model, *MODEL_CHOICES)
        self.controls = {
            "model": ipywidgets.Dropdown(options=models, value=model, description="model", style=style["style"]),
            "method": ipywidgets.Dropdown(
                options=("all", *FINE_TUNING_METHODS), value=method, description="method", style=style["style"]
            ),
            "rank": ipywidgets.SelectionSlider(
                options=_including(RANK_CHOICES, rank), value=rank, description="rank", **style
            ),
            "batch_size": ipywidgets.IntSlider(batch_size, 1, max(32, batch_size), description="batch", **style),
            "length": ipywidgets.SelectionSlider(
                options=_including(LENGTH_CHOICES, length), value=length, description="length (tokens)", **style
            ),
            "checkpointing": ipywidgets.Checkbox(checkpointing, description="gradient checkpointing"),
        }
        self.picture = ipywidgets.HTML(self.figure._repr_html_())
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name, change["new"]), names="value")
        self._box = ipywidgets.VBox([ipywidgets.VBox(list(self.controls.values())), self.picture])

    def _draw(self) -> figures.Figure:
        options = dict(self.choices)
        method = options.pop("method")
        return memory_bars(options.pop("model"), FINE_TUNING_METHODS if method == "all" else (method,), **options)

    def _changed(self, name: str, value: Any) -> None:
        assert self.picture is not None  # exists whenever there are controls
        self.choices[name] = value
        try:
            self.figure = self._draw()
            self.picture.value = self.figure._repr_html_()
        except CourseError as error:  # such as a gated model
            self.picture.value = f"<p>{html.escape(str(error))}</p>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": repr(self.figure), "text/html": self.figure._repr_html_()}
        if self._box is None:
            return plain
        # written out, since ipywidgets 7 (in Colab) and 8 create it in different ways
        return {**plain, WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}


def memory_explorer(**choices: Any) -> MemoryExplorer:
    """Controls for `memory_bars`; `choices` are `MemoryExplorer`'s arguments."""
    return MemoryExplorer(**choices)


class Review:
    """Shows rows one at a time and records a verdict for each, which every data set under a thousand rows deserves.

    Attributes:
        rows: chat rows.
        verdicts: row number → {"keep": bool, "note": str}.
        index: number of the row shown.
        controls: name → ipywidgets control; empty if ipywidgets is missing.
    """

    def __init__(self, rows: Iterable[dict], labels: str | os.PathLike[str] | None = None, start: int = 0) -> None:
        self.rows, self.labels, self.index = list(rows), labels, start
        if not self.rows:
            raise CourseError("there are no rows to review")
        self.verdicts = _read_labels(labels, len(self.rows))
        while self.index in self.verdicts and self.index < len(self.rows) - 1:
            self.index += 1  # continue where an earlier session ended
        self.controls: dict[str, ipywidgets.Widget] = {}
        self._box: ipywidgets.VBox | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        button = lambda text, tooltip: ipywidgets.Button(description=text, tooltip=tooltip)  # noqa: E731
        self.controls = {
            "keep": button("keep", "a row to learn from"),
            "drop": button("drop", "a row not to learn from"),
            "back": button("back", "the row before"),
            "note": ipywidgets.Text(placeholder="why? (a rule in the making)", layout={"width": "24em"}),
            "shown": ipywidgets.HTML(),
        }
        self.controls["keep"].on_click(lambda _: self.mark(True, self.controls["note"].value))
        self.controls["drop"].on_click(lambda _: self.mark(False, self.controls["note"].value))
        self.controls["back"].on_click(lambda _: self.show(self.index - 1))
        buttons = ipywidgets.HBox([self.controls[name] for name in ("keep", "drop", "back", "note")])
        self._box = ipywidgets.VBox([self.controls["shown"], buttons])
        self.show(self.index)

    def mark(self, keep: bool, note: str = "") -> None:
        """Give the current row a verdict, append it to the labels file, and show the next row."""
        self.verdicts[self.index] = {"keep": keep, "note": note}
        if self.labels is not None:
            with open(self.labels, "a", encoding="utf-8") as file:
                file.write(json.dumps({"row": self.index, "keep": keep, "note": note}, ensure_ascii=False) + "\n")
        self.show(self.index + 1)

    def show(self, index: int) -> None:
        """Show a row by its number."""
        self.index = min(max(index, 0), len(self.rows) - 1)
        if self.controls:
            self.controls["note"].value = self.verdicts.get(self.index, {}).get("note", "")
            self.controls["shown"].value = self._page()

    def plain(self, first: int = 0, count: int = 5) -> str:
        """Rows as text, for use without widgets."""
        return "\n".join(
            f"row {number}{self._verdict(number)}\n"
            + "\n".join(f"  {m['role']}: {_message_text(m)}" for m in self.rows[number]["messages"] if m["role"] != "system")
            for number in range(first, min(first + count, len(self.rows)))
        )

    def _verdict(self, number: int) -> str:
        verdict = self.verdicts.get(number)
        return (
            ""
            if verdict is None
            else f" ({'keep' if verdict['keep'] else 'drop'}{': ' * bool(verdict['note'])}{verdict['note']})"
        )

    def _page(self) -> str:
        messages_html = "".join(
            f"<p><b>{html.escape(str(message['role']))}</b><br>"
            f"<span style='white-space:pre-wrap'>{html.escape(_message_text(message))}</span></p>"
            for message in self.rows[self.index]["messages"]
        )
        progress = f"row {self.index} of {len(self.rows)}{self._verdict(self.index)}, {len(self.verdicts)} read"
        return f"<p>{html.escape(progress)}</p>{messages_html}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": self.plain(self.index, 1), "text/html": self._page()}
        if self._box is None:
            return plain
        return {**plain, WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}


def review(rows: Iterable[dict], labels: str | os.PathLike[str] | None = None) -> Review:
    """Read rows one by one and give verdicts.

    Args:
        rows: chat rows.
        labels: JSONL file for the verdicts; a session continues where the last one ended. None keeps them in memory only.

    Raises:
        CourseError: no rows, or a labels file that belongs to other rows.
    """
    return Review(rows, labels)


def _message_text(message: dict) -> str:
    from course_utils.data_prep.formats import text_content

    return text_content(message.get("content")) or json.dumps(message.get("tool_calls", ""), ensure_ascii=False)


def _read_labels(file: str | os.PathLike[str] | None, rows: int) -> dict[int, dict]:
    """Read the verdicts of earlier sessions; the last verdict for a row counts."""
    verdicts: dict[int, dict] = {}
    if file is None or not os.path.exists(file):
        return verdicts
    try:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                verdicts[entry["row"]] = {"keep": bool(entry["keep"]), "note": str(entry["note"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CourseError(f"{file} does not contain labels of a review ({error}); name another file") from error
    if verdicts and max(verdicts) >= rows:
        raise CourseError(f"{file} labels row {max(verdicts)} of {rows}: it belongs to other rows")
    return verdicts


def _including(values: tuple[int, ...], value: int) -> list[int]:
    return sorted({*values, value})


class DecisionHelper:
    """`decision.decide` with a control for each question; the recommendation is updated at each answer.

    Attributes:
        choices: question → answer.
        decision: the result of `decide` for these answers.
        controls: question → ipywidgets control; empty if ipywidgets is missing.
    """

    def __init__(
        self, evidence: Mapping[str, str] | None = None, assumptions: costs.Assumptions | None = None, **choices: Any
    ) -> None:
        self._context: dict[str, Any] = {"evidence": dict(evidence or {}), "assumptions": assumptions}
        self.choices: dict[str, Any] = {
            "gap": "behaviour", "prompt_reaches": 0.7, "facts_change": "rarely", "behaviour_changes": "rarely",
            "examples": 300, "requests_a_day": 1000, "latency": "relaxed", "own_machines": False,
            **choices,
        }  # fmt: skip
        self.decision = decision.decide(**self.choices, **self._context)
        self.controls: dict[str, ipywidgets.Widget] = {}
        self._shown: ipywidgets.HTML | None = None
        self._box: ipywidgets.VBox | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        layout = {"style": {"description_width": "initial"}, "layout": {"width": "52em"}}
        for name, (question, allowed) in decision.QUESTIONS.items():
            value = self.choices[name]
            if isinstance(allowed, tuple):
                control = ipywidgets.Dropdown(options=allowed, value=value, description=question, **layout)
            elif allowed is bool:
                control = ipywidgets.Checkbox(value, description=question, indent=False, **layout)
            elif name == "prompt_reaches":
                shares = sorted({step / 100 for step in range(0, 101, 5)} | ({float(value)} if value is not None else set()))
                options = [("not measured", None), *((f"{100 * share:g} %", share) for share in shares)]
                control = ipywidgets.Dropdown(options=options, value=value, description=question, **layout)
            else:
                control = ipywidgets.BoundedIntText(value, 0, 10**9, description=question, **layout)
            control.observe(lambda change, name=name: self._changed(name, change["new"]), names="value")
            self.controls[name] = control
        self._shown = ipywidgets.HTML(self.decision._repr_html_())
        self._box = ipywidgets.VBox([*self.controls.values(), self._shown])

    def _changed(self, name: str, value: Any) -> None:
        assert self._shown is not None  # exists whenever there are controls
        self.choices[name] = value
        self.decision = decision.decide(**self.choices, **self._context)
        self._shown.value = self.decision._repr_html_()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": str(self.decision), "text/html": self.decision._repr_html_()}
        if self._box is None:
            return plain
        return {**plain, WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}


def decision_helper(
    evidence: Mapping[str, str] | None = None, assumptions: costs.Assumptions | None = None, **choices: Any
) -> DecisionHelper:
    """Controls for `decision.decide`; `choices` are its answers, `evidence` and `assumptions` as in `decide`."""
    return DecisionHelper(evidence, assumptions, **choices)


COST_FIELDS = ("frontier", "instructions", "completion", "examples", "hours_tuning", "wage", "days", "cache")


class CostForm:
    """Controls for `costs.Assumptions`, and a figure that is drawn again at each change.

    Attributes:
        assumptions: as they are set now.
        figure: what was drawn for them.
        controls: field → ipywidgets control; empty if ipywidgets is missing.
    """

    def __init__(self, assumptions: costs.Assumptions, draw: Callable[[costs.Assumptions], figures.Figure]) -> None:
        self.assumptions, self._draw = assumptions, draw
        self.figure = draw(assumptions)
        self.controls: dict[str, ipywidgets.Widget] = {}
        self._shown: ipywidgets.HTML | None = None
        self._box: ipywidgets.VBox | None = None
        try:
            import ipywidgets
        except ImportError:
            return
        layout = {"style": {"description_width": "initial"}, "layout": {"width": "26em"}}
        for name in COST_FIELDS:
            value, label = getattr(assumptions, name), f"{name.replace('_', ' ')}, {costs.UNITS[name]}"
            if name == "frontier":
                control = ipywidgets.Dropdown(
                    options=list(costs.FRONTIER), value=value, description="prompted model", **layout
                )
            elif isinstance(value, bool):
                control = ipywidgets.Checkbox(value, description=label, indent=False, **layout)
            else:
                control = ipywidgets.BoundedIntText(
                    round(value), 1 if name == "days" else 0, 10**6, description=label, **layout
                )
            control.observe(lambda change, name=name: self._changed(name, change["new"]), names="value")
            self.controls[name] = control
        self._shown = ipywidgets.HTML(self.figure._repr_html_())
        self._box = ipywidgets.VBox([*self.controls.values(), self._shown])

    def _changed(self, name: str, value: Any) -> None:
        assert self._shown is not None  # exists whenever there are controls
        self.assumptions = replace(self.assumptions, **{name: value})
        self.figure = self._draw(self.assumptions)
        self._shown.value = self.figure._repr_html_()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        plain = {"text/plain": repr(self.figure), "text/html": self.figure._repr_html_()}
        if self._box is None:
            return plain
        return {**plain, WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}


def cost_form(assumptions: costs.Assumptions, draw: Callable[[costs.Assumptions], figures.Figure]) -> CostForm:
    """Assumptions in a form, with the figure that `draw` makes of them; without widgets, the figure."""
    return CostForm(assumptions, draw)
