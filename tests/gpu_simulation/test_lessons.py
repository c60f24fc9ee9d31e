"""The lessons' cells as on a GPU: no error on a T4 or an A100, and a fault that is planted is found."""

import nbformat
import pytest

from . import run


def told(hub, *cells, gpu="t4"):
    """What the runner says of a notebook of these cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    return run.run_notebook(notebook, run.LessonRun("00", gpu), hub)


@pytest.mark.slow
def test_what_is_planted_in_a_lesson_is_found(hub):
    found = told(
        hub,
        "import torch\nfrom course_utils import hardware, models\nmodel, tokenizer = models.load()",
        "ids = torch.tensor([[1, 2, 3]])\nmodel(input_ids=ids)",  # a forgotten .to("cuda")
        "model(input_ids=ids.cuda()).logits.detach().numpy()",  # a forgotten .cpu()
        "head = model.lm_head.weight * 1e6\n"  # logits that float16 cannot hold
        "assert (model.model(ids.cuda())[0] @ head.T).isfinite().all(), 'overflow'",
        "assert hardware.detect().tier == 't4' and model.dtype == torch.float16 and model.device.type == 'cuda'",
        "torch.cuda.get_device_properties(1)",  # an assertion of the library's own is no matter of quality
    )
    assert found.cells == 6
    assert [failure.cell for failure in found.errors] == [1, 2, 5]
    assert [failure.error.split(":")[0] for failure in found.errors[1:]] == ["TypeError", "AssertionError"]
    assert "same device" in found.errors[0].error
    assert [(failure.cell, failure.error) for failure in found.unmet] == [(3, "AssertionError: overflow")]
    assert found.errors[0].first_line == "ids = torch.tensor([[1, 2, 3]])" and found.errors[0].first_line in str(found)


@pytest.mark.slow
def test_one_lesson_runs_on_a_card(hub):
    """The one that stopped there last, on the card whose model has markers of its own."""
    found = run.run("01", "a100", hub)
    assert found.cells > 10 and not found.errors, str(found)
