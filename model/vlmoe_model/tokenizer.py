"""Text -> token ids: a thin wrapper around the `tokenizers` library and its `tokenizer.json`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from vlmoe_model.errors import CheckpointError

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[T_CLS]", "[T_SEP]", "[MASK]"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)
MAX_FILE_BYTES = 64 * 2**20


class Tokenizer:
    """Encodes as [T_CLS] text [T_SEP] (pair [T_SEP]). Immutable in use: one instance serves all threads."""

    def __init__(self, inner: tokenizers.Tokenizer, source: str = "tokenizer.json") -> None:
        vocabulary = inner.get_vocab()
        missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
        if missing:
            raise CheckpointError(f"{source}: the vocabulary lacks {', '.join(missing)}")
        inner.no_truncation()
        inner.no_padding()
        # a user who types "[MASK]" means those six characters
        inner.encode_special_tokens = True
        self._inner = inner
        # ids need not be dense: what counts for an embedding table is the largest
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            vocabulary[token] for token in SPECIAL_TOKENS
        )

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a `tokenizer.json`.

        Raises:
            CheckpointError: missing, not a tokenizer, or without one of `SPECIAL_TOKENS`.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise CheckpointError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        return cls.from_str(text, source=str(path))

    @classmethod
    def from_str(cls, text: str, source: str = "tokenizer.json") -> "Tokenizer":
        """Read the text of a `tokenizer.json`; `source` names it in errors."""
        try:
            inner = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{source}: not a tokenizer: {str(error).splitlines()[0]}") from error
        return cls(inner, source)

    def to_str(self) -> str:
        """The text of `tokenizer.json`."""
        return str(self._inner.to_str(pretty=False))

    def encode(self, text: str, pair: str | None = None) -> npt.NDArray[np.int32]:
        """Token ids of a text or a pair of texts, special tokens included: int32 [length]."""
        ids = [self.cls_id, *self._ids(text), self.sep_id]
        if pair is not None:
            ids += [*self._ids(pair), self.sep_id]
        return np.array(ids, dtype=np.int32)

    def decode(self, ids: Sequence[int] | npt.NDArray[np.int32]) -> str:
        """The text of token ids, special tokens left out."""
        return str(self._inner.decode([int(i) for i in ids], skip_special_tokens=True))

    def tokens(self, ids: Sequence[int] | npt.NDArray[np.int32]) -> tuple[str, ...]:
        """The vocabulary entry of every id, special tokens included; for pages that show tokens."""
        return tuple(self._inner.id_to_token(int(i)) or UNK for i in ids)

    def _ids(self, text: str) -> list[int]:
        # JSON may carry half a surrogate pair, which is no valid text; it becomes a question mark
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        return list(self._inner.encode(text, add_special_tokens=False).ids)


def train_wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a lower-case WordPiece vocabulary of at most `vocab_size` tokens.

    The special tokens are ids 0..4, and the same texts in the same order always give the same vocabulary.
    """
    texts = list(texts)
    inner = _wordpiece({})
    words = {
        word
        for text in texts
        for word, _ in inner.pre_tokenizer.pre_tokenize_str(inner.normalizer.normalize_str(text))
    }
    # the trainer numbers the pieces of one character in the order of a hash table, another one in every run;
    # given as "special" tokens they keep the order of this list
    pieces = sorted({f"##{character}" for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *pieces], show_progress=False
    )
    inner.train_from_iterator(texts, trainer=trainer)
    # built anew, so that only the real special tokens are marked as special
    learnt = _wordpiece(inner.get_vocab())
    learnt.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(learnt)


def _wordpiece(vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=UNK))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return inner
