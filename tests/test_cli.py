"""The command line as people run it: a real model on real text through every stage; one clear line for mistakes."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import shared

from monosemy import cli
from monosemy.artifact import Artifact, load
from monosemy.data.activations import ActivationStore
from monosemy.dictionaries.store import DictionaryStore
from monosemy.files import load_tensors
from monosemy.runtime import UsageError

FIELDS = {
    "member", "variant", "width", "l1", "k", "seed", "l0", "fvu", "explained_variance", "dead", "alive", "ce_original",
    "ce_reconstructed", "ce_zero", "ce_recovered", "kl", "mmcs_with_larger", "mmcs_other_seed",
}  # fmt: skip


def run(command: str, run_folder: Path) -> None:
    cli.main([part.replace("RUN", str(run_folder)) for part in command.split()])


@pytest.fixture(scope="module", params=["tinystories", "mix-small"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage, one by one, on a real pretrained model and real text."""
    model, text = shared("models/stories260K"), shared(f"text/{request.param}.jsonl.gz")
    folder = tmp_path_factory.mktemp(request.param)
    site = "--site layers.2.mlp_act --max-tokens 30000"
    run(f"tokenize {text} --tokenizer {model} --context 256 --out RUN/tokens", folder)
    run(f"harvest {model} RUN/tokens {site} --out RUN/activations", folder)
    run(
        "train RUN/activations --width 64 128 --l1 3e-2 1e-1 --seed 0 1 --steps 150 --batch 512 --out RUN/dictionaries",
        folder,
    )
    run(f"evaluate RUN/dictionaries RUN/activations --model {model} --token-rows 8 --out RUN/scores", folder)
    run(
        f"features RUN/dictionaries --member 3 --model {model} --tokens RUN/tokens --max-tokens 20000",
        folder,
    )
    run("report RUN", folder)
    return folder


def test_every_stage_leaves_a_finished_artifact(finished: Path) -> None:
    for kind in ("tokens", "activations", "dictionaries", "scores", "features"):
        assert load(finished / kind, kind).info
    page = (finished / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert sorted(entry.name for entry in finished.iterdir()) == [
        "activations", "dictionaries", "features", "report.html", "scores", "tokens",
    ]  # fmt: skip


def test_evaluate_prints_json_objects_with_nulls_where_undefined(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shared("models/stories260K")
    capsys.readouterr()
    run(f"evaluate RUN/dictionaries RUN/activations --model {model} --token-rows 8 --out RUN/scores --json", finished)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["member"] for row in rows] == list(range(8))
    for row in rows:
        assert row.keys() >= FIELDS
        assert row["k"] is None
        assert (row["mmcs_with_larger"] is None) == (row["width"] == 128)
        assert 0 < row["mmcs_other_seed"] <= 1
        assert row["alive"] + row["dead"] == row["width"]
        assert row["ce_zero"] > row["ce_original"]
        assert row["kl"] > 0
        assert row["explained_variance"] == pytest.approx(1 - row["fvu"])
    grid = DictionaryStore.open(finished / "dictionaries")
    for row in rows:  # brute force, over every pair
        mine = grid.directions(row["member"])
        others = {
            "mmcs_with_larger": [o for o in rows if o["l1"] == row["l1"] and o["width"] > row["width"]],
            "mmcs_other_seed": [
                o for o in rows if o["l1"] == row["l1"] and o["width"] == row["width"] and o["seed"] != row["seed"]
            ],
        }
        for name, members in others.items():
            cosines = [
                torch.nn.functional.cosine_similarity(mine[:, None], grid.directions(o["member"])[None], dim=2)
                for o in members
            ]
            expected = [float(cosine.amax(dim=1).mean()) for cosine in cosines]
            if expected:
                assert row[name] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    by = {(row["width"], row["l1"], row["seed"]): row for row in rows}
    for (width, l1, seed), row in by.items():
        if l1 == 0.03:
            assert row["l0"] > by[width, 0.1, seed]["l0"]  # a higher price buys sparser codes
            assert row["fvu"] < by[width, 0.1, seed]["fvu"]


def test_without_a_model_what_needs_one_is_null(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("evaluate RUN/dictionaries RUN/activations --out RUN/elsewhere/scores --json", finished)
    shutil.rmtree(finished / "elsewhere")
    for line in capsys.readouterr().out.splitlines():
        row = json.loads(line)
        assert row["ce_recovered"] is row["kl"] is row["ce_original"] is None
        assert row["fvu"] > 0


def test_the_same_from_python_in_five_lines(finished: Path) -> None:
    import monosemy as ms

    model = shared("models/stories260K")
    tokens = ms.TokenStore.open(finished / "tokens")
    activations = ms.harvest(
        model, tokens, site="layers.2.mlp_act", max_tokens=30000, out=finished / "activations"
    )  # the finished one is reused
    dictionaries = ms.train(
        activations, width=[64, 128], l1=[3e-2, 1e-1], seed=[0, 1], steps=150, batch=512, out=finished / "dictionaries"
    )
    scores = ms.evaluate(dictionaries, activations, model=model, token_rows=8, out=finished / "scores")
    index = ms.features(dictionaries, member=3, model=model, tokens=tokens, max_tokens=20000, out=finished / "features")
    assert len(dictionaries) == len(scores.rows) == 8
    assert index.n_features == 64


# --------------------------------------------------------------------------------------------- mistakes


def fails(command: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake ends with; exit code 2 and no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(command, folder)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    lines = error.splitlines()
    assert lines[-1].startswith("monosemy: ")
    assert "Traceback" not in error
    return lines[-1]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\x00\xff\x00")
    (tmp_path / "some.txt").write_text("some text to read " * 400)
    run(f"tokenize RUN/some.txt --tokenizer {shared('models/stories260K')} --context 64 --out RUN/tokens", tmp_path)
    run(
        f"harvest {shared('models/stories260K')} RUN/tokens --site layers.1.mlp_act --out RUN/activations",
        tmp_path,
    )
    return tmp_path


def test_mistakes_end_with_one_clear_line(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shared("models/stories260K")
    (small / "weightless").mkdir()
    shutil.copy(model / "config.json", small / "weightless")
    cases = {
        "tokenize RUN/empty.txt --out RUN/x": "holds no text",
        "tokenize RUN/binary.txt --out RUN/x": "binary.txt",
        "tokenize RUN/nowhere.txt --out RUN/x": "no such file or folder",
        f"harvest {model} RUN/nowhere --site final --out RUN/x": "no such artifact",
        f"harvest {model} RUN/tokens --site layers.1.mlp --out RUN/x": "mlp_act",  # lists those that exist
        f"harvest {model} RUN/tokens --site layers.7.mlp_act --out RUN/x": "4",  # the last layer there is
        "harvest RUN/weightless RUN/tokens --site final --out RUN/x": "weights",
        "harvest nobody/nothing RUN/tokens --site final --out RUN/x": "nobody/nothing",
        "train RUN/activations --variant topk --k 512 --width 256 --out RUN/x": "must be at most the dictionary width",
        "train RUN/activations --device mps --out RUN/x": "must be auto, cpu or cuda",
        "pretrain RUN/tokens --seed 99999999999999999999 --out RUN/x": "`seed`",
        "train RUN/activations --steps 5 --out RUN/some.txt/x": "choose another place with --out",
        "train RUN/tokens --out RUN/x": "holds tokens, where activations are needed",
        "report RUN/nowhere": "nowhere",
    }
    for command, words in cases.items():
        assert words in fails(command, small, capsys), command
    assert not (small / "x").exists()


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("tokenize RUN/some.txt --tokenizer bpe:300 --context 64 --out RUN/other", small)
    line = fails(f"harvest {shared('models/stories260K')} RUN/other --site final --out RUN/x", small, capsys)
    assert "tokeniz" in line


def test_features_and_scores_refuse_another_model(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train RUN/activations --width 16 --steps 5 --out RUN/dictionaries", small)
    from safetensors.torch import load_file, save_file

    shutil.copytree(shared("models/stories260K"), small / "other")
    weights = load_file(small / "other/model.safetensors")
    (small / "other/model.safetensors").unlink()
    save_file(
        {name: tensor + 0.01 for name, tensor in weights.items()}, small / "other/model.safetensors", {"format": "pt"}
    )
    for command in (
        "features RUN/dictionaries --member 0 --model RUN/other --tokens RUN/tokens --out RUN/x",
        "evaluate RUN/dictionaries RUN/activations --model RUN/other --out RUN/x",
    ):
        assert "not the one" in fails(command, small, capsys)


def test_a_skipped_bos_is_skipped_everywhere(small: Path) -> None:
    from monosemy.analysis.index import FeatureIndex
    from monosemy.data.tokens import TokenStore

    model = shared("models/stories260K")
    run(f"harvest {model} RUN/tokens --site layers.3.resid_post --skip-bos --out RUN/spared", small)
    assert ActivationStore.open(small / "spared").n_all < TokenStore.open(small / "tokens").n_tokens
    run("train RUN/spared --width 32 --steps 40 --out RUN/grid", small)
    run(f"features RUN/grid --member 0 --model {model} --tokens RUN/tokens --out RUN/index", small)
    index = FeatureIndex.open(small / "index")
    examples = [example for i in range(32) for example in index.feature(i).examples["top"]]
    assert examples
    assert not any(example.tokens[example.peak] == "<s>" for example in examples)


def test_dictionaries_of_another_width_are_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shared("models/stories260K")
    run("train RUN/activations --width 16 --steps 5 --out RUN/dictionaries", small)
    run(f"harvest {model} RUN/tokens --site final --out RUN/narrow", small)
    line = fails("evaluate RUN/dictionaries RUN/narrow --out RUN/x", small, capsys)
    assert "172" in line
    assert "64" in line
    assert "from 0 to 0" in fails(
        f"features RUN/dictionaries --member 1 --model {model} --tokens RUN/tokens --out RUN/x", small, capsys
    )


def test_a_damaged_shard_is_refused_by_name(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = small / "activations/shard-00000.safetensors"
    whole = shard.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        shard.write_bytes(damaged)
        assert "shard-00000.safetensors" in fails("train RUN/activations --steps 5 --out RUN/x", small, capsys)


def test_another_config_in_the_same_place_is_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("train RUN/activations --width 16 --steps 5 --out RUN/dictionaries", small)
    line = fails("train RUN/activations --width 16 --steps 6 --out RUN/dictionaries", small, capsys)
    assert "`steps` = 5, now 6" in line


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "monosemy.cli",
        "tokenize",
        str(tmp_path / "nowhere"),
        "--out",
        str(tmp_path / "x"),
    ]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert "Traceback" not in plain.stderr
    assert len(plain.stderr.splitlines()) == 1
    with pytest.raises(UsageError, match="no such file or folder"):  # and so Python prints where
        cli.main([*command[3:], "--debug"])


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """A file system of 1 MB; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # mapped files may still be open


def test_a_full_disk_is_said_in_one_line_and_finished_work_is_kept(
    small: Path, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(small / "tokens", full_disk / "tokens")
    line = fails(
        f"harvest {shared('models/stories260K')} {full_disk}/tokens --site layers.1.mlp_act --out {full_disk}/x",
        small,
        capsys,
    )
    assert "disk is full" in line
    assert "goes on from there" in line
    assert load(full_disk / "tokens", "tokens").info["n_tokens"] > 0
    assert not (full_disk / "x").exists()


def test_a_full_disk_under_a_database_is_an_ordinary_disk_error(full_disk: Path) -> None:
    from monosemy.files import new_database

    def fill() -> None:
        with new_database(full_disk / "rows.sqlite") as rows:
            rows.execute("CREATE TABLE t (text TEXT)")
            rows.executemany("INSERT INTO t VALUES (?)", (("x" * 1000,) for _ in range(3000)))

    with pytest.raises(OSError, match="full") as error:
        fill()
    assert error.value.errno == errno.ENOSPC


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("", "tokenize", "pretrain", "harvest", "train", "evaluate", "features", "report", "demo"):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command.split(), "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert len(text) > 200
        assert "(default: )" not in " ".join(text.replace("│", " ").split())


def test_help_does_not_keep_the_line_breaks_of_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("--clip"))
    text = lines[start : lines.index(next(line for line in lines[start:] if "(default: 0.1)" in line)) + 1]
    assert len(text) > 2
    assert all(len(line) > 40 for line in text[:-1])  # none but the last is cut short


def test_train_says_what_it_took_what_failed_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("world --d-in 16 --features 32 --l0 2 --out RUN/world", tmp_path)
    options = "--lr 1e-3 1e30 --warmup 0 --batch 64 --steps 60"
    capsys.readouterr()
    run(f"train RUN/world {options} --out RUN/dictionaries", tmp_path)
    failed, derived, last = capsys.readouterr().out.splitlines()
    assert failed.startswith("member 1 failed: the loss of Member(")
    assert derived == "not given, so: width 32; l1 0.1"
    command = last.partition("2 dictionaries (gated); next: monosemy ")[2]
    assert command == f"evaluate {tmp_path}/dictionaries {tmp_path}/world"
    run(command, tmp_path)
    assert "look first at member 0" in capsys.readouterr().out


def test_pretrained_models_load_everywhere(small: Path) -> None:
    """`pretrain` writes what transformers loads: the same logits, weights tied, the tokenizer beside it."""
    from transformers import AutoModelForCausalLM

    from monosemy.data.tokens import TokenStore
    from monosemy.models.language_model import LanguageModel

    run("pretrain RUN/tokens --layers 2 --d-model 32 --heads 2 --steps 8 --batch-rows 4 --out RUN/model", small)
    ids_BC = TokenStore.open(small / "tokens").batch(torch.arange(3)).ids_BC
    theirs = AutoModelForCausalLM.from_pretrained(small / "model").eval()
    ours = LanguageModel.load(small / "model", device="cpu")
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids_BC).logits, ours.logits(ids_BC))
    assert (small / "model/tokenizer.json").is_file()
    run("harvest RUN/model RUN/tokens --site layers.1.mlp_act --out RUN/own", small)
    assert ActivationStore.open(small / "own").d_in == 128


def test_train_alone_gives_a_dictionary(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shortest command: no option but the activations; the defaults follow from the data."""
    from monosemy.training import settings

    monkeypatch.setattr(settings, "MIN_ROWS", 20_000)  # the default reads at least a million rows
    capsys.readouterr()
    run("train RUN/activations", small)
    derived, last = capsys.readouterr().out.splitlines()
    assert derived == "not given, so: width 344; l1 0.1; lr 0.04; 19 steps of 1,024 rows"
    assert "1 dictionary (gated); next: monosemy evaluate" in last
    store = DictionaryStore.open(small / "dictionaries")
    assert [member["width"] for member in store.members] == [2 * 172]
    tensors = load_tensors(Artifact(small / "dictionaries", {}).path / "member-0000.safetensors")
    assert tensors["W_dec"].shape == (344, 172)
