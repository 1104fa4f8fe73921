"""Strings and ids, no models: from files of pairs to batches of ids.

The modules follow the flow of the data:

- `corpus`: pairs of strings, read from files;
- `tokenizer`: strings to ids and back, by SentencePiece;
- `encoded`: the tokenised corpus on disk, memory-mapped;
- `batches`: which pairs share a batch, and the batch as tensors.
"""
