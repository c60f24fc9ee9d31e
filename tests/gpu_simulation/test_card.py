"""The simulated card does what a card does: devices, formats, memory, random numbers."""

import pytest

from . import build, driver

SAME_DEVICE = "Expected all tensors to be on the same device"

# -- devices --------------------------------------------------------------------------------------------------------------


def test_torch_sees_the_card(t4, a100):
    look = """
        properties = torch.cuda.get_device_properties(0)
        result = [torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.get_device_name(),
                  torch.cuda.get_device_capability(), properties.total_memory,
                  torch.cuda.is_bf16_supported(including_emulation=False)]
    """
    assert t4(look) == [True, 1, "Tesla T4", [7, 5], 15_828_320_256, False]
    assert a100(look) == [True, 1, "NVIDIA A100-SXM4-40GB", [8, 0], 42_474_471_424, True]


@pytest.mark.parametrize(
    "planted",
    [
        "torch.ones(3, device='cuda') + torch.ones(3)",
        "torch.ones(3) + torch.ones(3, device='cuda')",
        "torch.ones(3, 3, device='cuda') @ torch.ones(3, 3)",
        "torch.nn.functional.cross_entropy(torch.ones(3, 5, device='cuda'), torch.ones(3, dtype=torch.long))",
        "torch.nn.Embedding(5, 4).cuda()(torch.ones(3, dtype=torch.long))",
        "torch.cat([torch.ones(3, device='cuda'), torch.ones(3)])",
        "torch.zeros(3, device='cuda').masked_fill(torch.ones(3, dtype=torch.bool), 1.0)",
        "torch.ones(3)[torch.tensor([0, 1], device='cuda')]",
        "q = torch.ones(1, 2, 4, 8); torch.nn.functional.scaled_dot_product_attention(q.cuda(), q.cuda(), q)",
    ],
)
def test_a_tensor_on_the_wrong_device_is_found(t4, planted):
    error, words = t4.refuses(planted)
    assert error == "RuntimeError" and ("same device" in words or "indices should be" in words)


def test_two_cards_refuse_each_other(pair):
    error, words = pair.refuses("torch.ones(3, device='cuda:0') + torch.ones(3, device='cuda:1')")
    assert error == "RuntimeError" and SAME_DEVICE in words
    assert pair("result = (torch.ones(3, device='cuda:0').to('cuda:1') + torch.ones(3, device='cuda:1')).device.index") == 1
    assert pair.refuses("torch.ones(3, device='cuda:2')")[1].startswith("CUDA error: invalid device ordinal")


def test_a_card_can_be_hidden(on_card):
    one = on_card("2xt4", None, CUDA_VISIBLE_DEVICES="0")
    assert one("result = torch.cuda.device_count()") == 1
    assert one.refuses("torch.ones(3, device='cuda:1')")[1].startswith("CUDA error: invalid device ordinal")


# -- number formats -------------------------------------------------------------------------------------------------------


def test_a_float16_overflow_is_found(t4, a100):
    planted = """
        x = torch.full((4, 4), 200.0, device="cuda", dtype=torch.{0})
        many = torch.full((70_000,), -1.0, device="cuda", dtype=torch.{0})
        result = [(x @ x).isfinite().all().item(), many.sum().isfinite().item()]
    """
    assert t4(planted.format("float16")) == [False, False]
    assert a100(planted.format("bfloat16")) == [True, True]
    assert t4(planted.format("float32")) == [True, True]


def test_a_loss_that_overflows_skips_the_step(t4):
    skipped = """
        layer = torch.nn.Linear(4, 1).cuda()
        optimizer, scaler = torch.optim.SGD(layer.parameters(), 0.1), torch.amp.GradScaler("cuda", init_scale=1024.0)
        before = layer.weight.detach().clone()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = layer(torch.full((1, 4), {0}, device="cuda")).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        result = [torch.equal(before, layer.weight), scaler.get_scale()]
    """
    assert t4(skipped.format(100.0)) == [True, 512.0]  # 100 x 1024 is more than 65504
    assert t4(skipped.format(0.1)) == [False, 1024.0]


def test_a_t4_multiplies_no_bfloat16(t4, a100):
    product = "x = torch.ones(4, 4, device='cuda', dtype=torch.bfloat16); result = (x @ x).sum().item()"
    assert "emulates" in t4.refuses(product)[1]
    assert a100(product) == 64


def test_products_add_up_in_float32(t4):
    # in float16, 2048 + 1 is 2048: a sum that is rounded at each step would stop there
    assert t4("x = torch.ones(1, 4096, device='cuda', dtype=torch.float16); result = (x @ x.T).item()") == 4096


# -- values ---------------------------------------------------------------------------------------------------------------


def test_a_model_computes_what_it_computes_on_the_cpu(t4):
    code = """
        import sys; sys.path.insert(0, "tests")
        from support import tiny_llama
        model = tiny_llama()
        ids = torch.randint(3, 1000, (2, 12), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids); mask[1, :5] = 0  # padding on the left
        losses, grads = [], []
        for device in ("cpu", "cuda"):
            model = model.to(device)
            model.zero_grad()
            loss = model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=ids.to(device)).loss
            loss.backward()
            losses.append(loss.item()); grads.append([p.grad.detach().cpu() for p in model.parameters()])
        far = max((a - b).abs().max().item() for a, b in zip(*grads))
        result = [abs(losses[0] - losses[1]) < 1e-5, far < 1e-5, len(grads[0]) > 10]
    """
    assert t4(code) == [True, True, True]


def test_fused_attention_of_16_bits_with_fewer_key_heads(a100):
    """Flash attention, which an A100 takes where there is no mask, does not keep the scores of all pairs of tokens."""
    code = """
        made, grown = [], []
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            q, k, v = (torch.randn(1, heads, 256, 8, device="cuda", dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
            torch.cuda.reset_peak_memory_stats(); before = torch.cuda.memory_allocated()
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            grown.append(torch.cuda.max_memory_allocated() - before)
            out.sum().backward()
            made.append([t.detach().float() for t in (out, q.grad, k.grad, v.grad)])
        scores = 4 * 256 * 256 * 4
        result = [grown[0] < scores / 10, grown[1] > scores, all(t.isfinite().all().item() for t in made[0])]
    """
    assert a100(code) == [True, True, True]


def test_4_bit_layers_compute_what_they_compute_on_the_cpu(t4):
    code = """
        import bitsandbytes
        layer = bitsandbytes.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.float16, quant_type="nf4")
        weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).half()
        layer.load_state_dict({"weight": weight})
        layer = layer.to("cuda")
        x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).half().cuda().requires_grad_()
        y = layer(x)
        y.sum().backward()
        packed, state = bitsandbytes.functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
        wanted = x.detach().cpu().float() @ bitsandbytes.functional.dequantize_4bit(packed, state).float().T
        one = layer(x.detach()[:1])
        result = [layer.weight.device.type, y.device.type, torch.allclose(y.detach().cpu().float(), wanted, atol=0.05),
                  torch.allclose(one.cpu().float(), wanted[:1], atol=0.05), x.grad.device.type, torch.cuda.device_count()]
    """
    # the count: bitsandbytes is told of no card while it loads, and nobody must remember that
    assert t4(code) == ["cuda", "cuda", True, True, "cuda", 1]


# -- memory ---------------------------------------------------------------------------------------------------------------


def test_memory_is_counted_as_the_allocator_rounds_it(t4):
    code = """
        allocated = torch.cuda.memory_allocated
        start = allocated()
        x = torch.empty(1000, device="cuda", dtype=torch.float32)   # 4000 bytes → 4096
        counted = [allocated() - start]
        y = x.view(10, 100)[3:]                                     # a view has no memory of its own
        counted.append(allocated() - start)
        z = x.half()                                                # 2000 → 2048
        counted.append(allocated() - start)
        del x
        counted.append(allocated() - start)                         # the view still holds it
        del y
        counted.append(allocated() - start)
        x = x2 = None; z.resize_(3000)                              # 6000 → 6144
        counted.append(allocated() - start)
        del z
        result = [*counted, allocated() - start]
    """
    assert t4(code) == [4096, 4096, 6144, 6144, 2048, 6144, 0]


def test_a_training_step_is_counted_to_the_byte(t4):
    code = """
        start = torch.cuda.memory_allocated()
        layer = torch.nn.Linear(256, 512, bias=False, device="cuda")  # 512 KiB
        optimizer = torch.optim.AdamW(layer.parameters(), foreach=False)
        layer(torch.ones(1, 256, device="cuda")).sum().backward()
        optimizer.step()
        weights = 256 * 512 * 4
        steps = 0 if next(iter(optimizer.state.values()))["step"].device.type == "cpu" else 512
        result = torch.cuda.memory_allocated() - start - 4 * weights - steps  # weights, gradients, two moments
        del layer, optimizer
    """
    assert t4(code) == 0


def test_the_peak_is_the_highest_since_it_was_reset(t4):
    code = """
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        x = torch.empty(1 << 20, device="cuda", dtype=torch.uint8); del x
        first = torch.cuda.max_memory_allocated() - start
        torch.cuda.reset_peak_memory_stats()
        current = torch.cuda.memory_stats()["allocated_bytes.all.current"]
        result = [first, torch.cuda.max_memory_allocated() - start, current - start]
    """
    assert t4(code) == [1 << 20, 0, 0]


def test_more_than_the_card_has_is_out_of_memory(pair):
    code = """
        held = [torch.empty(30 << 20, device="cuda", dtype=torch.uint8) for _ in range(2)]
        free = torch.cuda.mem_get_info(0)[0]
        try:
            torch.empty(30 << 20, device="cuda", dtype=torch.uint8)
            result = "no error"
        except torch.cuda.OutOfMemoryError as error:
            other = torch.empty(30 << 20, device="cuda:1", dtype=torch.uint8)  # the other card is empty
            del held, other
            again = torch.empty(60 << 20, device="cuda", dtype=torch.uint8)
            result = [str(error).startswith("CUDA out of memory"), free >> 20, again.numel() >> 20]
            del again
    """
    assert pair(code) == [True, 4, 60]


@pytest.mark.parametrize("function", ["silu", "mish"])
def test_the_gradient_of_an_activation_is_one_kernel(a100, function):
    """PyTorch puts it together from half a dozen operations where a device has no kernel of its own."""
    code = """
        x = torch.randn(1000, 1000, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        y = torch.nn.functional.{}(x)
        gradient = torch.ones_like(y)
        torch.cuda.reset_peak_memory_stats(); before = torch.cuda.memory_allocated()
        y.backward(gradient)
        wanted = x.detach().cpu().float().requires_grad_()
        torch.nn.functional.{}(wanted).sum().backward()
        same = torch.allclose(x.grad.cpu().float(), wanted.grad, atol=0.02)
        result = [(torch.cuda.max_memory_allocated() - before) / 2e6, same]
    """
    in_tensors, same = a100(code.format(function, function))
    assert 1 <= in_tensors < 1.01 and same


# -- memory of what is not computed ---------------------------------------------------------------------------------------

TRAINING_STEP = """
    import sys; sys.path.insert(0, "tests")
    from support import tiny_llama
    from peft import LoraConfig, get_peft_model
    dtype = torch.{dtype}
    torch.manual_seed(0)
    start = torch.cuda.memory_allocated()
    model = tiny_llama().to("cuda", dtype)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for weight in model.parameters():
        if weight.requires_grad: weight.data = weight.data.float()
    if {checkpointing}:
        model.gradient_checkpointing_enable({{"use_reentrant": False}})
        model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, scaler = torch.optim.AdamW(trained), torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    ids = torch.randint(3, 1000, (3, 40), device="cuda")
    mask = torch.ones_like(ids); mask[0, 20:] = 0
    peaks = []
    for step in range(2):
        for part in ("forward and backward", "optimizer"):
            torch.cuda.reset_peak_memory_stats()
            if part == "optimizer":
                scaler.step(optimizer); scaler.update(); optimizer.zero_grad(set_to_none=True)
            else:
                with torch.autocast("cuda", dtype=dtype):
                    loss = model(input_ids=ids, attention_mask=mask, labels=ids).loss
                scaler.scale(loss).backward()
            peaks.append(torch.cuda.max_memory_allocated() - start)
    result = [peaks, torch.cuda.memory_allocated() - start, loss.item()]
    del model, optimizer, scaler, trained, weight, loss, ids, mask
"""


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_skipped_takes_the_memory_of_what_is_computed(on_card, dtype, checkpointing):
    """To the byte, whether all operations are skipped or only the larger ones."""
    code = TRAINING_STEP.format(dtype=dtype, checkpointing=checkpointing)
    skipping = [{}, {driver.SKIP: "1"}, {driver.SKIP: "20000"}]
    computed, *skipped = (on_card("a100", None, **environment)(code) for environment in skipping)
    assert computed[0][0] > 1_000_000 and computed[2] > 1
    assert [found[:2] for found in skipped] == [computed[:2]] * 2
    assert skipped[0][2] == 0  # nothing was computed, and numbers that nobody has computed are zero


def test_what_is_skipped_touches_no_memory(on_card):
    code = """
        import psutil
        before = psutil.Process().memory_info().rss
        big = torch.ones(4 << 30, device="cuda", dtype=torch.uint8)          # 4 GB
        other = (big.view(1 << 16, 1 << 16)[::2].half() * 2).softmax(-1)     # 4 GB, twice for a moment
        result = [torch.cuda.memory_allocated() >> 30, torch.cuda.max_memory_allocated() >> 30,
                  psutil.Process().memory_info().rss - before < 100 << 20, other.sum().item(), list(other.shape)]
    """
    assert on_card("a100", None, **{driver.SKIP: "1000000"})(code) == [8, 12, True, 0, [32768, 65536]]


@pytest.mark.parametrize("rows", [16, 64])
def test_what_is_skipped_is_finite(on_card, rows):
    """Whether the comparison's own result is large enough to be skipped, or, with one byte for each of two, not quite."""
    code = f"""
        numbers = torch.ones({rows}, 40_000, device="cuda", dtype=torch.float16) * 2
        result = [torch.isfinite(numbers).all().item(), torch.isnan(numbers).any().item(), (numbers == 2).any().item()]
    """
    assert on_card("a100", None, **{driver.SKIP: "1000000"})(code) == [True, False, False]


def test_a_shape_that_depends_on_values_is_computed_after_all(on_card):
    code = """
        import sys
        values = torch.zeros(6000, device="cuda"); few = values[:4]
        few[2] = 1                                             # a small part of a large tensor holds numbers
        library = sys.modules["_simulated_gpu"].library
        result = [values.nonzero().tolist(), library.card_computed_after_all().decode()]
    """
    assert on_card("a100", None, **{driver.SKIP: "20000"})(code) == [[[2]], "aten::nonzero"]


# -- random numbers, copies, files ----------------------------------------------------------------------------------------


def test_the_card_draws_from_a_state_of_its_own(t4):
    code = """
        torch.manual_seed(0)
        host = torch.rand(3)
        torch.manual_seed(0)
        state = torch.cuda.get_rng_state_all()
        first = torch.rand(3, device="cuda")
        torch.nn.functional.dropout(torch.ones(9, device="cuda"))
        untouched = torch.equal(torch.rand(3), host)      # drawing on the card has not moved the host's
        torch.cuda.set_rng_state_all(state)
        result = [untouched, torch.equal(torch.rand(3, device="cuda"), first), len(state)]
    """
    assert t4(code) == [True, True, 1]


def test_a_generator_belongs_to_a_device(t4):
    draw = "result = torch.rand(3, device='cuda', generator=torch.Generator({!r}).manual_seed(1)).tolist()"
    assert t4(draw.format("cuda")) == t4(draw.format("cuda"))
    assert "generator" in t4.refuses(draw.format("cpu"))[1]


# -- where there can be none ----------------------------------------------------------------------------------------------


def test_without_a_compiler_it_says_so(monkeypatch):
    if build.why_not():
        pytest.skip(build.why_not())
    monkeypatch.setenv("PATH", "")
    assert "compiler" in build.why_not()


def test_a_build_with_cuda_is_told(monkeypatch, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libtorch_cuda.so").touch()
    monkeypatch.setattr(build, "_torch", lambda: tmp_path)
    assert "built with CUDA" in build.why_not()
