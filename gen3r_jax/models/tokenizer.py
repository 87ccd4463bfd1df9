"""Texts as the token numbers that the text encoder takes."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from gen3r_jax.errors import UserError, notice, one_line, shortened
from gen3r_jax.storage.files import read_text
from gen3r_jax.storage.hashes import require_whole, write_hashes

PAD = "<pad>"

_log = logging.getLogger(__name__)


class Tokenizer:
    """umT5's SentencePiece model, from ``tokenizer.json``; a text ends with one end-of-sequence token."""

    def __init__(self, tokenizer: FastTokenizer):
        self._tokenizer = tokenizer
        self._pad, self._unknown = tokenizer.token_to_id(PAD), tokenizer.token_to_id("<unk>")
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def from_folder(cls, path: Path | str) -> "Tokenizer":
        """Reads ``tokenizer.json``.

        Raises UserError if there is none, it is not the one that was written, or no tokenizer with a padding token.
        """
        file = Path(path) / "tokenizer.json"
        if not file.exists():
            raise UserError(f"no tokenizer at {file}; copy the official tokenizer folder there")
        require_whole(path, file.name)
        try:
            tokenizer = FastTokenizer.from_str(read_text(file))
            tokenizer.encode("")  # its parts may not fit together
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # the library raises bare exceptions, and panics that are no Exception
            raise UserError(f"{file} is no tokenizer ({shortened(one_line(error), 150)})") from None
        if tokenizer.token_to_id(PAD) is None:
            raise UserError(f"{file} has no token {PAD}")
        return cls(tokenizer)

    @classmethod
    def tiny(cls) -> "Tokenizer":
        """A tokenizer of characters that fits the tiny text encoder's vocabulary of 64."""
        characters = "abcdefghijklmnopqrstuvwxyz0123456789 .,;:!?'\"-()"
        vocabulary = {token: i for i, token in enumerate((PAD, "</s>", "<unk>", *characters))}
        tokenizer = FastTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer.add_special_tokens([PAD, "</s>", "<unk>"])
        return cls(tokenizer)

    @classmethod
    def of_words(cls, words: Sequence[str]) -> "Tokenizer":
        """A tokenizer whose tokens are these words (in lower case) and marks; any other word is unknown."""
        vocabulary = {token: i for i, token in enumerate((PAD, "</s>", "<unk>", ",", ".", ";", *words))}
        tokenizer = FastTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer.add_special_tokens([PAD, "</s>", "<unk>"])
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """Number of different tokens."""
        return self._tokenizer.get_vocab_size()

    def words(self, most: int) -> list[str]:
        """All words that the text encoder knows; none where it knows more than `most`, or parts of words."""
        known = sorted(token for token in self._tokenizer.get_vocab() if token.isalpha())
        return known if self.size <= most and max(map(len, known), default=0) > 1 else []

    def save(self, path: Path | str) -> None:
        """Writes ``tokenizer.json`` into a folder, which is made when it is missing."""
        Path(path).mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(Path(path) / "tokenizer.json"))
        write_hashes(path)

    def __call__(
        self, texts: Sequence[str], length: int, *, warn: bool = True
    ) -> tuple[Int[np.ndarray, "b {length}"], Bool[np.ndarray, "b {length}"]]:
        """Token numbers, padded to `length`, and where there are tokens.

        Longer texts are cut, and unknown words are all the same to the text encoder; `warn` says so.
        """
        ids = np.full((len(texts), length), self._pad, np.int32)
        mask = np.zeros((len(texts), length), bool)
        for row, (text, encoding) in enumerate(zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True)):
            tokens = encoding.ids
            if warn and self._unknown in tokens:
                spans = (span for token, span in zip(tokens, encoding.offsets, strict=True) if token == self._unknown)
                words = list(dict.fromkeys(text[start:end] for start, end in spans))
                more = f" and {len(words) - 8} more" if len(words) > 8 else ""
                notice(f"the text encoder does not know: {', '.join(word[:30] for word in words[:8])}{more}")
            if len(tokens) > length:
                if warn:
                    start = encoding.offsets[length - 1][0]
                    _log.warning("the text has %d tokens, %d are read; left out: %r", len(tokens), length, text[start:])
                tokens = [*tokens[: length - 1], tokens[-1]]  # the end of the sequence stays
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = True
        return ids, mask
