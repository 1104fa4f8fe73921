"""Batches in threads: the same results in the same order, faults surface, and torch's threads are as before."""

import threading

import pytest
import torch

from qkv.decoding.cpu.side_by_side import side_by_side
from qkv.decoding.engines.contract import Request
from qkv.decoding.engines.torch_engine import TorchEngine
from qkv.decoding.options import SearchOptions
from qkv.nn import Transformer, TransformerConfig
from qkv.text.corpus import Pair
from qkv.text.tokenizer import Tokenizers
from qkv.text.tokenizer_settings import TokenizerSettings


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_from_several_threads(two_threads):
    both = threading.Barrier(2, timeout=20)  # lets nobody pass who is alone

    def work(number):
        both.wait()
        return number**2, torch.get_num_threads(), threading.get_ident()

    found = list(side_by_side(work, range(6), threads=2))
    assert [square for square, _, _ in found] == [0, 1, 4, 9, 16, 25]
    assert {threads for _, threads, _ in found} == {1}
    assert len({who for _, _, who in found}) == 2
    assert torch.get_num_threads() == 2


def test_a_single_item_has_all_threads(two_threads):
    assert list(side_by_side(lambda _: (torch.get_num_threads(), threading.get_ident()), [0], threads=2)) == [
        (2, threading.get_ident())
    ]


def test_a_fault_surfaces_and_the_threads_are_as_before(two_threads):
    def work(number):
        if number == 1:
            raise KeyError("one")
        return number

    with pytest.raises(KeyError, match="one"):
        list(side_by_side(work, range(50), threads=2))
    assert torch.get_num_threads() == 2


def test_a_thread_that_begins_meanwhile_has_all_threads(two_threads):
    """Its first use of torch takes the process's number of threads, and keeps it for good."""
    begun, over = threading.Barrier(2, timeout=20), threading.Event()
    found = []

    def bystander():
        found.append(torch.get_num_threads())
        over.wait(20)
        found.append(torch.get_num_threads())

    def work(number):
        if begun.wait() == 0:
            thread = threading.Thread(target=bystander)
            thread.start()
            threads.append(thread)
            while not found:
                pass
        return torch.get_num_threads()

    threads = []
    assert list(side_by_side(work, range(2), threads=2)) == [1, 1]
    over.set()
    threads[0].join()
    assert found == [2, 2]


@pytest.mark.parametrize("beam", [1, 3])
def test_threads_change_no_output(two_threads, tmp_path, beam):
    words = ["abc", "bcd", "cda", "dab"]
    settings = TokenizerSettings(kind="char")
    tokenizers = Tokenizers.learn([Pair(word, word) for word in words], tmp_path / "tokenizer", settings)
    torch.manual_seed(4)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 32, "encoder_layers": 1, "decoder_layers": 1}
    model = Transformer(TransformerConfig(tokenizers.target.vocab_size, **sizes)).double().eval()
    sources = [[*tokenizers.source.encode([words[i % 4] * (1 + i % 7)])[0], tokenizers.source.eos] for i in range(40)]
    options, told = SearchOptions(beam=beam, max_length_ratio=1.0), []
    engine, request = TorchEngine(model, tokenizers), Request(sources, options)
    many = engine.search(request, batch_tokens=120, on_progress=told.append)
    torch.set_num_threads(1)
    one = engine.search(request, batch_tokens=120)
    assert [best.tokens for [best, *_] in many] == [best.tokens for [best, *_] in one]
    assert len(told) > 2
    assert sum(told) == len(sources)
