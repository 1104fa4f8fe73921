"""What the command line offers: verbs, options, help; and how it refuses what it cannot read."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import qkv
from qkv.cli.main import main

QKV = Path(sys.executable).with_name("qkv")
HEAVY = ["torch", "numpy", "sentencepiece", "sacrebleu", "pydantic", "yaml", "jaxtyping", "tqdm", "pyarrow"]

# Every verb with its arguments and options. They are a promise to users: do not let the list grow by accident.
PAIRS = "--data --source --target --format --source-column --target-column --header"
SURFACE = {
    "train": "recipe key=value --resume --quiet",
    "compare": "recipe key=value --vary --budget --output --metrics --beam --quiet",
    "translate": "run RUN2 --checkpoint --device --threads --input --output --n-best --on-error --unknown --beam "
    "--length-penalty --engine --precision --shortlist",
    "evaluate": f"run RUN2 --checkpoint --device --threads {PAIRS} --metrics --bleu-tokenize --output --json "
    "--beam --length-penalty --engine --precision --shortlist",
    "score": f"run RUN2 --checkpoint --device --threads {PAIRS} --tokens --on-error --engine --precision",
    "average": "run --last --use",
    "export": "run target --output --checkpoint --quantization --overwrite",
    "info": "run",
    "attention": "run text --checkpoint --device --threads --target --kind --layer --head --beam --output",
    "align": f"run --checkpoint --device --threads {PAIRS} --gold --layer --head --shifted --output",
    "shapes": "run text --checkpoint --device --threads --target --preset --option --vocab-size --all --output",
    "report": "run --checkpoint --device --threads --text --evaluate --output",
    "benchmark": f"run --checkpoint --device --threads {PAIRS} --engine --beam --seconds --output",
    "inspect": "run --checkpoint --device --threads --compare --compare-checkpoint --port --host --no-browser",
}


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
        "import sys, qkv.cli.main\ntry:\n    qkv.cli.main.main(['--help'])\nexcept SystemExit:\n    pass\n"
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
        ("trian", "unknown verb 'trian'; did you mean train?"),
        ("info", "the following arguments are required: run; see `qkv info --help`"),
        ("info RUN --outptu x", "unrecognized arguments: --outptu x"),
        ("translate RUN --inp x", "unrecognized arguments: --inp x"),
        ("translate RUN --beam 0", "argument --beam: a number of at least 1 is needed, not '0'"),
        ("translate RUN --beam -3", "argument --beam: a number of at least 1 is needed, not '-3'"),
        ("translate RUN --beam wide", "argument --beam: a number of at least 1 is needed, not 'wide'"),
        ("translate RUN --n-best 0", "argument --n-best: a number of at least 1 is needed, not '0'"),
        ("translate RUN --shortlist 0", "argument --shortlist: a number of at least 1 is needed, not '0'"),
        ("score RUN --threads 0", "argument --threads: a number of at least 1 is needed, not '0'"),
        ("average RUN --last -1", "argument --last: a number of at least 1 is needed, not '-1'"),
        ("evaluate RUN --length-penalty x", "argument --length-penalty: invalid float value: 'x'"),
    ],
)
def test_a_command_that_cannot_be_read_takes_one_line(arguments, complaint, refused):
    assert refused(*arguments.split()).startswith(complaint)


@pytest.mark.parametrize("verb", [verb for verb in SURFACE if verb not in ("train", "compare")])
def test_a_run_that_is_not_there(verb, tmp_path, refused):
    others = ["marian"] * len({"text", "target"} & {*SURFACE[verb].split()})
    assert refused(verb, tmp_path / "nowhere", *others).startswith(f"{tmp_path}/nowhere: no such run directory")
    assert refused(verb, tmp_path, *others) == f"{tmp_path}: not a run directory (it has no config.yaml)"


@pytest.mark.parametrize("verb", ["translate", "evaluate", "score"])
def test_a_device_or_checkpoint_that_is_not_there(verb, run, typed, refused):
    typed(b"ab\tcd\n")
    assert refused(verb, run, "--device", "gpu") == "unknown device 'gpu': use auto, cpu, cuda or cuda:N"
    assert refused(verb, run, "--device", "cuda:99").startswith("device 'cuda:99' is not here")
    assert refused(verb, run, "--checkpoint", "step-1").startswith("step-1: no such checkpoint")
