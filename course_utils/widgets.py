"""Figures to play with, each with a plain function beside it that draws the same without a widget.

A widget lives only while a kernel and a front end talk to each other. In a stored notebook, on paper and where ipywidgets is
missing the plain figure stands in its place, with its alt text.
"""

from __future__ import annotations

import html

from course_utils import figures, memory

METHODS = ("full", "lora", "qlora")
MODELS = ("SmolLM2-135M", "SmolLM2-1.7B", "Llama-2-7B", "Mistral-7B-v0.3", "Llama-3.1-8B", "Llama-2-13B", "Llama-3.1-70B")
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
RANKS = (4, 8, 16, 32, 64, 128, 256)
VIEW = "application/vnd.jupyter.widget-view+json"


def memory_bars(
    model, methods: tuple[str, ...] = METHODS, gpus: tuple[str, ...] = ("t4", "a100"), **options
) -> figures.Figure:
    """What a training step takes by each method, in parts, against the memory of cards.

    Args:
        model: as `memory.estimate` takes it.
        methods: "full", "lora", "qlora".
        gpus: names in `memory.GPUS`.
        options: further fields of `memory.Plan`; they must suit all methods (a 4-bit base has no precision "fp32").

    Returns:
        Figure with stacked bars in GB.

    Raises:
        CourseError: as `memory.estimate`, or an unknown card.
    """
    bars = {}
    for method in methods:
        found = memory.estimate(model, method, **options)
        rows = dict(found.rows())
        base = rows.pop("weights") + rows.pop("other models")
        states = rows.pop("adapter") + rows.pop("gradients") + rows.pop("optimizer")
        parts = {"weights": base, "what trains: adapter, gradients, optimiser": states, **rows}
        bars[method] = {name: size / 1e9 for name, size in parts.items()}
    plan = found.plan
    title = f"{found.model}: one step, {plan.batch_size} x {plan.length:,} tokens, rank {plan.rank}"
    title += ", checkpointing" if plan.checkpointing else ""
    limits = {gpu.upper(): memory.gpu_memory(gpu) / 1e9 for gpu in gpus}
    return figures.stacked_bars(bars, title, "GB", limits)


class MemoryExplorer:
    """`memory_bars` with controls for model, method, rank, batch, length and checkpointing.

    Attributes:
        controls: name → ipywidgets control; empty where ipywidgets is missing.
        picture: the widget that shows the figure, or None.
    """

    def __init__(self, model: str = "Llama-3.1-8B", method: str = "all", rank: int = 16, batch_size: int = 1,
                 length: int = 1024, checkpointing: bool = True):  # fmt: skip
        self.chosen = {
            "model": model, "method": method, "rank": rank, "batch_size": batch_size, "length": length,
            "checkpointing": checkpointing,
        }  # fmt: skip
        self.figure = self._draw()
        self.controls, self.picture, self._box = {}, None, None
        try:
            import ipywidgets
        except ImportError:
            return
        style = {"style": {"description_width": "7em"}, "continuous_update": False}
        models = MODELS if model in MODELS else (model, *MODELS)
        self.controls = {
            "model": ipywidgets.Dropdown(options=models, value=model, description="model", style=style["style"]),
            "method": ipywidgets.Dropdown(
                options=("all", *METHODS), value=method, description="method", style=style["style"]
            ),
            "rank": ipywidgets.SelectionSlider(options=_with(RANKS, rank), value=rank, description="rank", **style),
            "batch_size": ipywidgets.IntSlider(batch_size, 1, max(32, batch_size), description="batch", **style),
            "length": ipywidgets.SelectionSlider(
                options=_with(LENGTHS, length), value=length, description="length (tokens)", **style
            ),
            "checkpointing": ipywidgets.Checkbox(checkpointing, description="gradient checkpointing"),
        }
        self.picture = ipywidgets.HTML(self.figure._repr_html_())
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._changed(name, change["new"]), names="value")
        self._box = ipywidgets.VBox([ipywidgets.VBox(list(self.controls.values())), self.picture])

    def _draw(self) -> figures.Figure:
        options = dict(self.chosen)
        method = options.pop("method")
        return memory_bars(options.pop("model"), METHODS if method == "all" else (method,), **options)

    def _changed(self, name: str, value) -> None:
        from course_utils.errors import CourseError

        self.chosen[name] = value
        try:
            self.figure = self._draw()
            self.picture.value = self.figure._repr_html_()
        except CourseError as error:  # a model that the hub does not give away
            self.picture.value = f"<p>{html.escape(str(error))}</p>"

    def _repr_mimebundle_(self, **_) -> dict:
        plain = {"text/plain": repr(self.figure), "text/html": self.figure._repr_html_()}
        if self._box is None:
            return plain
        # written out, since ipywidgets 7 (Colab's) and 8 make it in different ways
        return {**plain, VIEW: {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}}


def memory_explorer(**chosen) -> MemoryExplorer:
    """Controls for `memory_bars`; `chosen` are `MemoryExplorer`'s arguments."""
    return MemoryExplorer(**chosen)


def _with(values: tuple[int, ...], one: int) -> list[int]:
    return sorted({*values, one})
