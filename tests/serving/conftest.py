"""What the tests of the inspector's page share: small models, servers of their own, and a browser."""

import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest
import torch

AXE = Path(__file__).parents[2] / "build" / "node" / "node_modules" / "axe-core" / "axe.min.js"
QUIET = ["background-networking", "component-update", "default-apps", "domain-reliability", "extensions", "sync"]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]
LETTERS = "abcdef"
WORD = "decaf"


def missing(what):
    """Browser tests are left out where there is no browser, unless they are demanded."""
    message = f"{what}; on Debian: apt-get install chromium npm && make browser"
    if os.environ.get("QKV_REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run that has learnt, in seconds, to reverse short words."""
    from qkv.training.trainer import train  # writes no report, unlike qkv.train

    path = tmp_path_factory.mktemp("reverse")
    generator = random.Random(11)
    words = {"".join(generator.choices(LETTERS, k=generator.randint(3, 5))) for _ in range(2000)}
    pairs = "".join(f"{word}\t{word[::-1]}\n" for word in sorted(words))
    (path / "train.tsv").write_text(pairs, "utf-8")
    sizes = {"d_model": 32, "num_heads": 4, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 2}
    pace = {"batch_tokens": 400, "learning_rate": 5e-3, "warmup_steps": 40, "schedule": "cosine"}
    recipe = {
        "run": str(path / "run"),
        "threads": 1,
        "data": {"train": str(path / "train.tsv")},
        "tokenizer": {"kind": "char"},
        "model": {**sizes, "dropout": 0.0, "norm_position": "pre"},
        "training": {**pace, "steps": 160, "label_smoothing": 0.0},
        "validation": {"every": 10_000},
        "decoding": {"engine": "torch"},
    }
    jaxtyping.config.update("jaxtyping_disable", True)  # checks more than double the time of a training
    try:
        return str(train(recipe, progress=False).path)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def translator(run):
    import qkv

    return qkv.load(run)


@pytest.fixture(scope="session")
def make_untrained(translator):
    """A translator of any architecture that has learnt nothing; by default with the tokenizers of the one that has."""
    from qkv.decoding.options import SearchOptions
    from qkv.nn.architectures import ARCHITECTURES
    from qkv.translator import Translator

    def make(architecture, tokenizers=translator.tokenizers):
        torch.manual_seed(3)
        family = ARCHITECTURES[architecture]
        model = family.build(family.config(tokenizers.target.vocab_size, d_model=16, **family.implied))
        options = SearchOptions(beam=2, max_length_ratio=1.0, max_length_extra=2)
        return Translator(model, tokenizers, options=options)

    return make


@contextmanager
def serve(*subjects) -> Iterator[str]:
    """The address of an inspector of these subjects, as long as the block lasts."""
    uvicorn = pytest.importorskip("uvicorn")
    from qkv.serving.inspector import create_app

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(create_app(subjects), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        server.should_exit = True
        thread.join(timeout=5)


@pytest.fixture
def served():
    """Serve subjects for the time of a block, which is given the address."""
    return serve


@pytest.fixture(scope="session")
def address(translator):
    """Where the trained model can be inspected."""
    pytest.importorskip("fastapi")
    from qkv.serving.examination import Subject

    with serve(Subject("reverse", translator)) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("there is no Playwright (pip install 'qkv[dev]')")
    chromium = shutil.which("chromium")
    if chromium is None:
        missing("there is no chromium")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe():
    """Where axe-core's script is."""
    if not AXE.is_file():
        missing("there is no axe-core in build/node")
    return AXE


class Page:
    """A page with what it has asked for and complained of, and a few habits of its readers."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.requests, self.complaints, self.dialogs = [], [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(address)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def translate(self, source):
        self.fill("#source", source)
        self.press("#source", "Enter")
        self.settle()

    def settle(self):
        self.wait_for_selector(".run[aria-busy=true], .asking", state="detached")

    def button(self, name, **options):
        return self.get_by_role("button", name=name, exact=True, **options)

    def tab(self, name):
        self.get_by_role("tab", name=name, exact=True).first.click()

    def shown(self):
        return self.locator(".translation").first.inner_text()

    def api(self, what="examine", source=WORD, **question):
        import httpx

        answer = httpx.post(f"{self.address}api/{what}", json={"source": source, "n_best": 5, **question}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()


def unhurried(context):
    """A context that waits for two minutes before it calls a busy machine a fault."""
    context.set_default_timeout(120_000)
    return context


@pytest.fixture
def open_page(browser):
    """Open a page; afterwards, it must have complained of nothing and asked no other host for anything."""
    opened = []

    def open_page(address, **context):
        context = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **context}
        page = Page(unhurried(browser.new_context(**context)).new_page(), address)
        page.wait_for_selector(".run")
        opened.append(page)
        return page

    yield open_page
    for page in opened:
        page.context.close()
        assert page.complaints == []
        assert page.dialogs == []
        assert [url for url in page.requests if not url.startswith(page.address)] == []


@pytest.fixture
def page(open_page, address):
    """The trained model's page, with a word translated."""
    page = open_page(address)
    page.translate(WORD)
    return page
