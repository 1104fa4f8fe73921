"""CTranslate2: a worker of one thread for each core when there is much to do, one worker for a single sentence."""

from typing import Any

import ctranslate2
import sentencepiece
from worker import Command, decoding, serve

BATCH_TOKENS = [512, 8192, 1024, 4096, 2048]  # the likeliest last
LONGEST = 128


def build(options: dict[str, Any]) -> dict[str, Command]:
    """See `worker.serve`."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=options["tokenizer"])
    threads, end = options["threads"], pieces.id_to_piece(pieces.eos_id())

    def load(workers: int, each: int) -> ctranslate2.Translator:
        return ctranslate2.Translator(
            options["model"],
            device="cpu",
            compute_type=options["precision"],
            inter_threads=workers,
            intra_threads=each,
        )

    many = load(threads, 1)
    single = {number: load(1, number) for number in sorted({1, threads})}

    def call(translator: ctranslate2.Translator, sources: list[str], beam: int, size: int) -> list[str]:
        found = translator.translate_batch(
            [[*line, end] for line in pieces.encode(sources, out_type=str)],
            beam_size=beam,
            length_penalty=1.0,
            max_batch_size=size,
            batch_type="tokens",
            max_decoding_length=LONGEST,
        )
        return pieces.decode([result.hypotheses[0] for result in found])

    def translate(sources: list[str], beam: int, size: int) -> list[str]:
        return call(many, sources, beam, size)

    def one(source: str, beam: int, threads: int) -> str:
        return call(single[threads], [source], beam, 0)[0]

    return decoding(translate, BATCH_TOKENS, one, list(single))


if __name__ == "__main__":
    serve(build)
