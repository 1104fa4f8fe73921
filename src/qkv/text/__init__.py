"""Strings and ids, no models: from files of pairs to batches of ids.

The modules follow the flow of the data:

- `corpus`: pairs of strings, read from files, whose `formats` are a registry;
- `tokenizer`: strings to ids and back, by SentencePiece, as `tokenizer_settings` say;
- `encoded`: the tokenised corpus on disk, memory-mapped;
- `batches`: which pairs share a batch, and the batch as tensors.
"""
