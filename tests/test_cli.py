"""The command line, verb by verb, on a run that is trained here in a second or two."""

import io
import json
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import qkv
from qkv import cli
from qkv.cli import main
from qkv.errors import UserError

QKV = Path(sys.executable).with_name("qkv")
HEAVY = ["torch", "numpy", "sentencepiece", "sacrebleu", "pydantic", "yaml", "jaxtyping", "tqdm", "pyarrow"]

WORDS = ["ab", "ba", "abc", "cab", "bad", "dab", "cd", "dcba", "abba", "cada"]
PAIRS = [(word, " ".join(word).upper().replace("A", "Ä")) for word in WORDS]

RECIPE = """\
data: {{root: {data}, train: train.tsv, validation: train.tsv, test: test.tsv}}
seed: 3
threads: 1
tokenizer: {{kind: char}}
model: {{d_model: 16, num_heads: 2, d_ff: 32, encoder_layers: 1, decoder_layers: 1, dropout: 0.0}}
training: {{steps: 8, batch_tokens: 64, warmup_steps: 2, learning_rate: 1e-2}}
validation: {{every: 2, samples: 0}}
decoding: {{beam: 2}}
evaluation: {{metrics: [wer, per]}}
"""

# Every verb with its arguments and options. They are a promise to users: do not let the list grow by accident.
SURFACE = {
    "train": "recipe key=value --resume --quiet",
    "compare": "recipe key=value --vary --budget --output --metrics --beam --quiet",
    "translate": "run --checkpoint --device --threads --input --output --n-best --beam --length-penalty "
    "--engine --precision",
    "evaluate": "run --checkpoint --device --threads --data --source --target --metrics --output --json "
    "--beam --length-penalty --engine --precision",
    "score": "run --checkpoint --device --threads --data --source --target --tokens --engine --precision",
    "average": "run --last --use",
    "info": "run",
    "attention": "run text --checkpoint --device --threads --target --kind --layer --head --beam --output",
    "align": "run --checkpoint --device --threads --data --source --target --gold --layer --head --shifted --output",
    "shapes": "run text --checkpoint --device --threads --target --preset --option --vocab-size --all --output",
    "report": "run --checkpoint --device --threads --text --evaluate --output",
    "benchmark": "run --checkpoint --device --threads --data --source --target --engine --beam --seconds --output",
    "inspect": "run --checkpoint --device --threads --compare --port --host --no-browser",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    (path / "train.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), "utf-8")
    # One source has two references.
    (path / "test.tsv").write_text("ab\tÄ B\nab\tB Ä\ndada\tD Ä D Ä\n", "utf-8")
    (path / "test.source").write_text("ab\ncab\n", "utf-8")
    (path / "test.target").write_text("Ä B\nC Ä B\n", "utf-8")
    (path / "recipe.yaml").write_text(RECIPE.format(data=path), "utf-8")
    return path


@pytest.fixture(scope="module")
def recipe(data):
    return str(data / "recipe.yaml")


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "läuft"
    assert main(["train", recipe, f"run={path}", "--quiet"]) == 0
    return str(path)


@pytest.fixture(scope="module")
def translator(run):
    return qkv.load(run)


@pytest.fixture
def own_run(run, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(run, tmp_path / "own", symlinks=True)
    return str(tmp_path / "own")


@pytest.fixture
def ok(capsys):
    """Run a command that must succeed without a word on standard error; its lines on standard output."""

    def ok(*arguments):
        assert main([str(argument) for argument in arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out.splitlines()

    return ok


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused with exit code 2, in one line, with nothing done; what it says."""

    def refused(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("qkv: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("qkv: ").removesuffix("\n")

    return refused


@pytest.fixture(autouse=True)
def typed(monkeypatch):
    """Put bytes on standard input, which is empty otherwise."""

    def typed(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "ascii"))

    typed(b"")
    return typed


def tree(directory):
    """Every file below a directory, with its content."""
    return {path: path.read_bytes() for path in sorted(Path(directory).rglob("*")) if path.is_file()}


# The surface


def help_of(capsys, *verb):
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_verbs_and_options_are_as_promised(capsys):
    assert re.findall(r"^    (\w+)\b", help_of(capsys), flags=re.MULTILINE) == list(SURFACE)
    for verb, promised in SURFACE.items():
        arguments = re.findall(r"^  (?:-h, )?([-\w=]+)", help_of(capsys, verb), flags=re.MULTILINE)
        assert arguments == [
            *re.findall(r"(?<!\S)[^-\s]\S*", promised),
            "--help",
            *re.findall("--\\S+", promised),
        ]


def test_every_argument_is_explained(capsys):
    for verb in SURFACE:
        for entry in re.split(r"\n  (?=\S)", help_of(capsys, verb).partition("positional arguments:")[2])[1:]:
            assert re.search(r"(\s{2,}|\n\s+)\w", entry), f"{verb}: {entry}"


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"qkv {qkv.__version__}\n"


def test_help_imports_nothing_heavy():
    code = (
        "import sys, qkv.cli\ntry:\n    qkv.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_help_answers_in_under_half_a_second():
    def seconds():
        """Of processor time: what it takes when the machine is not busy with something else."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run([QKV, "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert ran.stdout.startswith("usage: qkv")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert 0 < min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "the following arguments are required: VERB; see `qkv --help`"),
        ("trian", "argument VERB: invalid choice: 'trian'"),
        ("info", "the following arguments are required: run; see `qkv info --help`"),
        ("info RUN --outptu x", "unrecognized arguments: --outptu x"),
        ("translate RUN --inp x", "unrecognized arguments: --inp x"),
        ("translate RUN --beam 0", "argument --beam: a number of at least 1 is needed, not '0'"),
        ("translate RUN --beam -3", "argument --beam: a number of at least 1 is needed, not '-3'"),
        ("translate RUN --beam wide", "argument --beam: a number of at least 1 is needed, not 'wide'"),
        ("translate RUN --n-best 0", "argument --n-best: a number of at least 1 is needed, not '0'"),
        ("score RUN --threads 0", "argument --threads: a number of at least 1 is needed, not '0'"),
        ("average RUN --last -1", "argument --last: a number of at least 1 is needed, not '-1'"),
        ("evaluate RUN --length-penalty x", "argument --length-penalty: invalid float value: 'x'"),
    ],
)
def test_a_command_that_cannot_be_read_takes_one_line(arguments, complaint, refused):
    assert refused(*arguments.split()).startswith(complaint)


@pytest.mark.parametrize("verb", [verb for verb in SURFACE if verb not in ("train", "compare")])
def test_a_run_that_is_not_there(verb, tmp_path, refused):
    others = ["text"] * ("text" in SURFACE[verb].split())
    assert refused(verb, tmp_path / "nowhere", *others).startswith(f"{tmp_path}/nowhere: no such run directory")
    assert refused(verb, tmp_path, *others) == f"{tmp_path}: not a run directory (it has no config.yaml)"


@pytest.mark.parametrize("verb", ["translate", "evaluate", "score"])
def test_a_device_or_checkpoint_that_is_not_there(verb, run, typed, refused):
    typed(b"ab\tcd\n")
    assert refused(verb, run, "--device", "gpu") == "unknown device 'gpu': use auto, cpu, cuda or cuda:N"
    assert refused(verb, run, "--device", "cuda:99").startswith("device 'cuda:99' is not here")
    assert refused(verb, run, "--checkpoint", "step-1").startswith("step-1: no such checkpoint")


def test_a_failing_disk_is_no_traceback(run, capsys, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["info", run]) == 2
    assert capsys.readouterr().err == "qkv: No space left on device\n"


def test_a_reader_that_has_had_enough_is_no_fault(run, capsys, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["info", run]) == 0
    assert capsys.readouterr().err == ""


def test_an_interruption_is_no_traceback(run, capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_info", interrupted)
    assert main(["info", run]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_message_takes_one_line_whatever_it_holds(monkeypatch, refused):
    def fails(options):
        raise UserError("one\ntwo")

    monkeypatch.setattr(cli, "_info", fails)
    assert refused("info", "x") == "one two"


def test_output_is_utf8_whatever_the_locale(run, monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, "ascii"))
    assert main(["info", run]) == 0
    assert "läuft" in stream.getvalue().decode("utf-8")


# train


def test_train_says_what_it_does_on_standard_error(recipe, tmp_path, capsys):
    assert main(["train", recipe, f"run={tmp_path}/run", "training.steps=2"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "parameters" in captured.err
    assert "validation loss" in captured.err
    assert f"qkv translate {tmp_path}/run" in captured.err


def test_train_takes_overrides_before_and_after_options(recipe, tmp_path, ok):
    assert ok("train", recipe, f"run={tmp_path}/run", "--quiet", "steps=2", "seed=5") == []
    config = qkv.config.load_config(tmp_path / "run" / "config.yaml")
    assert (config.training.steps, config.seed) == (2, 5)


def test_train_resumes(own_run, recipe, ok):
    assert ok("train", "--resume", own_run, "--quiet", "steps=10") == []
    assert ok("train", "--quiet", "--resume", recipe, f"run={own_run}", "steps=12") == []
    assert Path(own_run, "best").exists()
    assert any("12 steps" in line for line in ok("info", own_run))


def faulty(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_train_refuses_faulty_input_in_one_line_and_writes_nothing(recipe, tmp_path, refused):
    short = faulty(tmp_path, "short.txt", b"a\nb\n")
    long = faulty(tmp_path, "long.txt", b"a\nb\nc\n")
    latin = faulty(tmp_path, "latin.tsv", b"a\tb\na\tb\n\xe4\tb\n")
    empty = faulty(tmp_path, "empty.tsv", b"")
    narrow = faulty(tmp_path, "narrow.tsv", b"a\tb\na b\n")
    yaml = faulty(tmp_path, "broken.yaml", b"run: x\ntraining: {steps: 5\n")
    (tmp_path / "file").write_bytes(b"in the way")
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "precious.txt").write_text("mine")
    before = tree(tmp_path)

    def said(*overrides, of=recipe):
        return refused("train", of, f"run={tmp_path}/run", *overrides)

    train = "data.train."
    for part in ("train", "validation", "test"):
        assert said(f"data.{part}={{source: {short}, target: {long}}}") == (
            f"{short} has 2 lines but {long} has 3; aligned files need the same number of lines"
        )
        assert said(f"data.{part}=nowhere.tsv").endswith("nowhere.tsv: no such file")
        assert said(f"data.{part}={latin}").startswith(f"{latin}:3: not valid UTF-8")
        assert said(f"data.{part}={empty}") == f"{empty}: no pairs in it; the corpus is empty"
        assert said(f"data.{part}={narrow}").startswith(f"{narrow}:2: 2 tab-separated columns needed")
    assert said(f"{train}source={short}") == (
        "data.train: pairs: give 'path' (one file), or both 'source' and 'target' (two aligned files)"
    )
    assert said("data.train=null").startswith("data.train is not set: say data.train=FILE.tsv")
    assert said("training.stepz=5") == f"{recipe}: unknown key training.stepz; did you mean training.steps?"
    assert said("model.d_modl=5") == f"{recipe}: unknown key model.d_modl; did you mean model.d_model?"
    assert said("training.steps=many") == f"{recipe}: training.steps: must be an integer, got 'many'"
    assert said("model.d_model=wide") == f"{recipe}: model.d_model: must be an integer, got 'wide'"
    assert said("budget=soon").startswith(f"{recipe}: training.budget: a duration is written like")
    assert said("tokenizer.joint=false").startswith(f"{recipe}: model.tie is all, which needs one vocabulary")
    assert said("device=gpu").startswith("unknown device 'gpu'")
    assert said("stray").startswith("'stray': an override is written key=value")
    assert said(f"run={existing}").startswith(f"{existing}: exists already; go on with `qkv train --resume {existing}`")
    assert said(f"run={tmp_path}/file").startswith(f"{tmp_path}/file: exists already")
    assert said(f"run={tmp_path}/file/run").startswith(f"{tmp_path}/file/run/config.yaml: cannot be written")
    assert said(of=yaml).startswith(f"{yaml}:3: not valid YAML")
    assert said(of=tmp_path / "no.yaml") == f"{tmp_path}/no.yaml: no such recipe"
    assert said(of=existing).startswith(f"{existing}: a directory, not a recipe; to go on with a run: qkv train --res")
    assert said("--resume", of=existing).startswith(f"{existing}: not a run directory")
    assert said("--resume").startswith(f"{tmp_path}/run: no such run directory")
    assert tree(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_train_refuses_to_write_over_a_run(own_run, recipe, refused):
    before = tree(own_run)
    assert "exists already" in refused("train", recipe, f"run={own_run}")
    assert tree(own_run) == before


# compare


def test_compare_trains_the_variants_and_prints_what_it_found(recipe, tmp_path, ok, monkeypatch):
    monkeypatch.setattr("qkv.comparison.measure.LENGTHS", (4,))
    arguments = ["compare", recipe, "--vary", "model.norm_position=pre,post", "--output", tmp_path / "c", "--quiet"]
    lines = ok(*arguments, "--metrics", "per", "--beam", 1, "training.steps=4")
    assert re.search(r"^\| variant \| parameters \| per \|", "\n".join(lines), flags=re.MULTILINE)
    assert {line.split(" ")[1] for line in lines if line.startswith(("| pre", "| post"))} == {"pre", "post"}
    assert lines[-1] == f"The report is {tmp_path}/c/compare.html"
    found = json.loads((tmp_path / "c" / "comparison.json").read_text("utf-8"))
    assert [row["measurement"]["steps"] for row in found["rows"]] == [4, 4]
    assert found["command"].startswith(f"qkv compare {recipe} training.steps=4 --vary model.norm_position=pre,post")


def test_compare_refuses_what_it_cannot_do(recipe, tmp_path, refused):
    output = ["--output", tmp_path / "c"]
    assert refused("compare", recipe).startswith("the following arguments are required: --vary")
    assert refused("compare", recipe, *output, "--vary", "model.norm").startswith("--vary 'model.norm': write KEY=")
    assert "did you mean model.d_model?" in refused("compare", recipe, *output, "--vary", "model.d_modl=1,2")
    assert "training.budget" in refused("compare", recipe, *output, "--vary", "seed=1,2", "--budget", "soon")
    assert refused("compare", recipe, *output, "--vary", "seed=1,2", "--metrics", "blue").startswith("unknown metric")
    assert not (tmp_path / "c").exists()


def test_compare_says_that_no_variant_could_be_trained(recipe, tmp_path, capsys):
    arguments = ["compare", recipe, "--vary", "seed=1,2", "--quiet", "--output", str(tmp_path / "c")]
    assert main([*arguments, "training.learning_rate=1e30", "training.clip_norm=null"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("qkv: no variant could be trained: the loss is not a number at step")
    assert "failed: the loss is not a number" in captured.out


# translate


def test_translate_gives_a_line_for_every_line(run, translator, typed, ok):
    typed("ab\n\n  \ncab\r\nä unknown".encode())
    lines = ok("translate", run)
    assert lines == translator.translate(["ab", "", "  ", "cab", "ä unknown"])
    assert lines[1] == lines[2] == ""
    assert lines[0]


def test_translate_of_nothing_is_nothing(run, ok):
    assert ok("translate", run) == []


def test_translate_takes_search_options(run, translator, typed, ok):
    typed(b"abcd\n")
    assert ok("translate", run, "--beam", 1, "--threads", 1, "--device", "cpu") == translator.translate(
        ["abcd"], beam=1
    )
    typed(b"abcd\n")
    assert ok("translate", run, "--beam", 4, "--length-penalty", 0, "--checkpoint", "last") == qkv.load(
        run, checkpoint="last"
    ).translate(["abcd"], beam=4, length_penalty=0.0)


@pytest.mark.parametrize("penalty", ["nan", "-1", "inf"])
def test_translate_refuses_an_impossible_length_penalty(penalty, run, typed, refused):
    typed(b"ab\n")
    assert refused("translate", run, "--length-penalty", penalty).startswith(
        "length_penalty must be a number of at least 0"
    )


def test_translate_refuses_a_beam_narrower_than_n_best(run, typed, refused):
    typed(b"ab\n")
    assert "must not be larger than the beam" in refused("translate", run, "--n-best", 3, "--beam", 2)


def test_translate_prints_the_n_best_with_line_number_and_score(run, translator, typed, ok):
    typed(b"ab\n\ncab\n")
    lines = ok("translate", run, "--n-best", 3)
    expected = translator.n_best(["ab", "", "cab"], 3)
    assert lines == [
        f"{number}\t{output.score:.4f}\t{output.text}"
        for number, outputs in enumerate(expected, start=1)
        for output in outputs
    ]
    assert [line.split("\t")[0] for line in lines] == ["1", "1", "1", "2", "3", "3", "3"]
    assert "2\t0.0000\t" in lines


def test_translate_reads_and_writes_files(run, data, translator, tmp_path, ok):
    target = tmp_path / "deep" / "out.txt"
    assert ok("translate", run, "--input", data / "test.source", "--output", target) == []
    assert target.read_text("utf-8").splitlines() == translator.translate(["ab", "cab"])
    assert ok("translate", run, "--input", data / "test.source", "--output", target, "--n-best", 1)[:1] == []
    assert target.read_text("utf-8").startswith("1\t-")
    assert list(target.parent.iterdir()) == [target], "no temporary file is left"


def test_translate_writes_all_or_nothing(run, tmp_path, refused):
    source = faulty(tmp_path, "source.txt", b"ab\nab\n\xff\n")
    target = faulty(tmp_path, "out.txt", b"as it was")
    before = tree(tmp_path)
    assert refused("translate", run, "--input", source, "--output", target).startswith(f"{source}:3: not valid UTF-8")
    assert refused("translate", run, "--input", tmp_path / "nowhere", "--output", target).endswith(
        "nowhere: no such file"
    )
    assert tree(tmp_path) == before


def test_translate_refuses_an_output_that_cannot_be_written(run, data, tmp_path, refused):
    (tmp_path / "file").touch()
    arguments = ["translate", run, "--input", data / "test.source", "--output"]
    assert refused(*arguments, tmp_path).startswith(f"{tmp_path}: cannot be written")
    assert refused(*arguments, tmp_path / "file" / "out").startswith(f"{tmp_path}/file/out: cannot be written")


def test_translate_leaves_a_device_a_device(run, data, ok):
    ok("translate", run, "--input", data / "test.source", "--output", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_translate_works_chunk_by_chunk(run, translator, typed, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_ITEMS_AT_ONCE", 2)
    typed(b"ab\nba\nabc\ncab\n\xff\n")
    assert main(["translate", run, "--n-best", "1"]) == 2
    captured = capsys.readouterr()
    # What came before the fault is out already, numbered through.
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == ["1", "2", "3", "4"]
    assert [line.split("\t")[2] for line in captured.out.splitlines()] == translator.translate(
        ["ab", "ba", "abc", "cab"]
    )
    assert captured.err.startswith("qkv: standard input:5: not valid UTF-8")


def test_translate_says_in_which_chunk_a_source_is_at_fault(run, typed, capsys, monkeypatch):
    def translate(self, sources, **_):
        if "bad" in sources:
            raise UserError("source 2 is too long")
        return sources

    monkeypatch.setattr("qkv.translator.Translator.translate", translate)
    monkeypatch.setattr(cli, "_ITEMS_AT_ONCE", 2)
    typed(b"ab\nab\nab\nbad\n")
    assert main(["translate", run]) == 2
    assert capsys.readouterr() == ("ab\nab\n", "qkv: after 2 lines: source 2 is too long\n")


def test_translate_keeps_an_output_on_its_line(run, typed, ok, monkeypatch):
    monkeypatch.setattr("qkv.translator.Translator.translate", lambda self, sources, **_: ["a\nb\r\nc"] * len(sources))
    typed(b"ab\nab\n")
    assert ok("translate", run) == ["a b  c"] * 2


def test_translate_without_standard_input(run, monkeypatch, refused):
    monkeypatch.setattr(sys, "stdin", None)
    assert refused("translate", run) == "standard input is closed"


def test_translate_in_a_pipe_whose_reader_leaves(run):
    process = subprocess.Popen(
        [QKV, "translate", run, "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b"ab\n" * 10)
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_translate_talks_with_a_person_on_a_terminal(run, translator):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([QKV, "translate", run], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    def read_until(text):
        seen = b""
        while text not in seen:
            seen += os.read(ours, 1024)
        return seen.decode()

    assert "Ctrl-D ends" in read_until(b"> ")
    for word in ("cab", ""):
        os.write(ours, f"{word}\n".encode())
        assert read_until(b"> ").replace("\r", "") == f"{word}\n{translator.translate(word)}\n> "
    os.write(ours, b"\x04")
    assert process.wait(timeout=120) == 0
    os.close(ours)


# evaluate


def test_evaluate_prints_the_metrics_of_the_recipe_on_its_test_pairs(run, translator, ok):
    ab, dada = translator.translate(["ab", "dada"])
    wrong = (ab not in ("Ä B", "B Ä")) + (dada != "D Ä D Ä")
    lines = ok("evaluate", run)
    assert lines[0] == "3 pairs of 2 different sources"
    assert lines[1] == f"wer {50 * wrong:.2f}"
    assert re.fullmatch(r"per \d+\.\d\d", lines[2])


def test_evaluate_takes_other_pairs_and_metrics(run, data, ok):
    lines = ok(
        "evaluate", run, "--source", data / "test.source", "--target", data / "test.target", "--metrics", "bleu, cer"
    )
    assert lines[0] == "2 pairs of 2 different sources"
    assert re.fullmatch(r"bleu \d+\.\d\d  \(nrefs:1\|.*version:.*\)", lines[1])
    assert lines[2].startswith("cer ")
    assert ok("evaluate", run, "--data", data / "train.tsv", "--beam", 1)[0] == "10 pairs of 10 different sources"


def test_evaluate_prints_json_for_machines(run, ok):
    found = json.loads("\n".join(ok("evaluate", run, "--json", "--metrics", "chrf,exact_match")))
    assert list(found) == ["chrf", "exact_match"]
    assert found["chrf"]["signature"].startswith("nrefs:1|")
    assert found["exact_match"]["signature"] is None
    assert 0 <= found["exact_match"]["value"] <= 100


def test_evaluate_writes_an_output_for_every_pair(run, translator, tmp_path, ok):
    ok("evaluate", run, "--output", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text("utf-8").splitlines() == translator.translate(["ab", "ab", "dada"])


def test_evaluate_refuses_what_it_cannot_do(run, data, refused):
    assert refused("evaluate", run, "--metrics", "blue").startswith("unknown metric 'blue': did you mean 'bleu'?")
    assert refused("evaluate", run, "--data", "nowhere.tsv") == "nowhere.tsv: no such file"
    assert refused("evaluate", run, "--source", data / "test.source").startswith(
        "pairs: give 'path' (one file), or both"
    )
    assert "not both" in refused("evaluate", run, "--data", data / "test.tsv", "--source", data / "test.source")
    assert "suffix does not tell the format" in refused("evaluate", run, "--data", data / "test.source")


def test_evaluate_finds_an_unknown_metric_before_it_translates(run, refused, monkeypatch):
    monkeypatch.setattr("qkv.translator.Translator.translate", lambda *_, **__: pytest.fail("it translates"))
    assert refused("evaluate", run, "--metrics", "bleu,blue").startswith("unknown metric 'blue'")


def test_evaluate_without_test_pairs(own_run, refused):
    config = Path(own_run, "config.yaml")
    config.write_text(re.sub(r"  test:\n(    .*\n)+", "", config.read_text("utf-8")), "utf-8")
    assert refused("evaluate", own_run) == (
        f"{own_run}: its recipe has no data.test; say --data FILE, or --source FILE --target FILE"
    )


# score


def test_score_prints_log_probability_and_perplexity(run, translator, typed, data, ok):
    typed("ab\tÄ B\ncab\t\nab\tÄ B\tignored\n".encode())
    pairs = [("ab", "Ä B"), ("cab", ""), ("ab", "Ä B")]
    expected = [f"{s.log_probability:.4f}\t{s.perplexity:.4f}" for s in translator.score(pairs)]
    assert ok("score", run) == expected
    lines = ok("score", run, "--source", data / "test.source", "--target", data / "test.target")
    assert len(lines) == 2
    assert lines[0] == expected[0]


def test_score_prints_tokens(run, translator, typed, ok):
    typed("ab\tÄ B\n".encode())
    (line,) = ok("score", run, "--tokens")
    (score,) = translator.score([("ab", "Ä B")])
    tokens = [token.rpartition(":") for token in line.split("\t")[2].split(" ")]
    assert [token for token, _, _ in tokens] == score.tokens
    assert sum(float(value) for _, _, value in tokens) == pytest.approx(score.log_probability, abs=1e-3)


def test_score_works_chunk_by_chunk(run, typed, capsys, monkeypatch):
    monkeypatch.setattr(cli, "_ITEMS_AT_ONCE", 2)
    typed(b"ab\tA\nab\tA\nab\tA\nno tab\n")
    assert main(["score", run]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err == "qkv: standard input:4: no tab; write source TAB target\n"


# average and info


def test_average_makes_a_checkpoint(own_run, typed, ok, refused):
    (name,) = ok("average", own_run, "--last", 2)
    assert Path(name) == Path(own_run, "checkpoints", "averaged-00000008")
    assert Path(own_run, "best").resolve() != Path(name)
    typed(b"ab\n")
    assert ok("translate", own_run, "--checkpoint", "averaged-00000008") == qkv.load(
        own_run, checkpoint=name
    ).translate(["ab"])
    assert ok("average", own_run, "--use") == [name]
    assert Path(own_run, "best").resolve() == Path(name)
    assert ok("info", own_run)[-1].split() == ["in", "use", "averaged-00000008"]
    assert refused("average", own_run, "--last", 1).startswith("averaging takes at least 2 checkpoints")


def test_info_describes_a_run(run, translator, ok):
    text = "\n".join(ok("info", run))
    parameters = sum(parameter.numel() for parameter in translator.model.parameters())
    assert text.startswith(f"run          {run}\n")
    assert f"both: char, {translator.tokenizers.source.vocab_size} tokens" in text
    assert f"transformer, {parameters:,} parameters" in text
    assert "d_model 16, num_heads 2" in text
    assert "8 steps" in text
    assert re.search(r"best +loss \d\.\d+ at step \d", text)
    assert re.search(r"checkpoints  step-00000004, step-00000006, step-00000008", text)


def test_info_of_a_run_that_has_just_begun(own_run, ok):
    shutil.rmtree(Path(own_run, "checkpoints"))
    Path(own_run, "best").unlink()
    assert ok("info", own_run)[-1] == "model        transformer, no checkpoint yet"


def test_info_of_separate_tokenizers(recipe, tmp_path, ok):
    ok("train", recipe, f"run={tmp_path}/run", "--quiet", "steps=1", "tokenizer.joint=false", "model.tie=target")
    assert re.search(
        r"tokenizer +source: char, \d+ tokens; target: char, \d+ tokens", "\n".join(ok("info", f"{tmp_path}/run"))
    )


@pytest.mark.parametrize("damaged", ["state.json", "model.safetensors"])
def test_info_of_a_damaged_checkpoint(damaged, own_run, refused):
    (Path(own_run, "best").resolve() / damaged).write_bytes(b"{")
    assert Path(own_run).name in refused("info", own_run)


def test_a_checkpoint_of_another_architecture_is_refused(own_run, typed, refused):
    state = Path(own_run, "best").resolve() / "state.json"
    state.write_text(state.read_text().replace('"transformer"', '"recurrent"'))
    typed(b"ab\n")
    assert "architecture 'recurrent'" in refused("translate", own_run)
