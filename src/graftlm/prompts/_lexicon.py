"""The tokens that a word is in the place of a template's mask."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graftlm.core.errors import UserError, check_whole
from graftlm.prompts._frame import Frame
from graftlm.prompts._template import Mask, Piece, Template
from graftlm.sites import Sites


@dataclass(frozen=True)
class Lexicon:
    """Words as they stand at one template's mask, and the LM head that scores them.

    A word that follows a space is another token than one that begins a text in most vocabularies; SentencePiece has a
    sign for it and byte-level ones put the space into the token, WordPiece and Chinese characters know no difference.
    """

    template: Template
    frame: Frame
    sites: Sites

    @property
    def tokenizer(self) -> Any:
        return self.frame.tokenizer

    @property
    def size(self) -> int:
        """The rows of the LM head."""
        return int(self.head.weight.shape[0])

    @property
    def head(self) -> Any:
        """The layer that gives the logits of the vocabulary."""
        return self.sites.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]

    @property
    def width(self) -> int:
        """The width of the states that the last layer scores."""
        return int(self.head.weight.shape[1])

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The LM head's weights (r d) and biases (r) of some tokens, in fp32."""
        bias = getattr(self.head, "bias", None)
        weight = self.head.weight.detach()[ids.to(self.head.weight.device)].float().cpu()
        return weight, None if bias is None else bias.detach()[ids.to(bias.device)].float().cpu()

    def tokens(self, word: str) -> list[int]:
        """A word's tokens at the mask, with the space before it that the template has; an unknown one is an error."""
        mask = next(piece for piece in self.template.pieces if isinstance(piece, Mask))
        return self.placed(word, mask, spaced=bool(mask.space))

    def placed(self, words: str, piece: Piece, *, spaced: bool = False) -> list[int]:
        """The tokens of words in a piece's place, its first; `spaced`: a space is before them whatever stands there."""
        before, begins = self.template.before(piece)
        spaced = spaced or before.endswith(" ")
        if begins and not spaced:
            return self.found(words)
        return self.found(words, f"{before.rstrip(' ') or ('a' if spaced else '(')}{' ' if spaced else ''}")

    def found(self, words: str, before: str = "") -> list[int]:
        """The tokens of words that stand behind others; what the vocabulary has no token for is an error."""
        check_whole(words, f"the word {words!a}")
        ids = (self._behind(before, words) if before else []) or self._alone(words)
        if not ids or self.tokenizer.unk_token_id in ids:
            raise UserError(f'the word "{words}" is not in the vocabulary of {type(self.tokenizer).__name__}')
        return ids

    def _behind(self, before: str, word: str) -> list[int]:
        """The tokens that are the word's alone in a text; none where one is partly of what stands before it."""
        start = len(before)
        read = self.tokenizer(before + word, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        pairs = [
            (token, span)
            for token, span in zip(read["input_ids"], read["offset_mapping"], strict=True)
            if span[1] > start
        ]
        if not pairs or len(before[pairs[0][1][0] :].strip()) > 0:
            return []
        return self._worded([token for token, _ in pairs])

    def _alone(self, word: str) -> list[int]:
        return self._worded(self.tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"])

    def _worded(self, ids: list[int]) -> list[int]:
        """Without the sign for a space that stands by itself, as SentencePiece has it before a Chinese character."""
        if len(ids) > 1 and str(self.tokenizer.convert_ids_to_tokens(ids[0])).strip("▁Ġ ") == "":
            return ids[1:]
        return ids

    def said(self, ids: list[int]) -> str:
        """Tokens as an error shows them."""
        return ", ".join(str(token) for token in self.tokenizer.convert_ids_to_tokens(ids))

    def vocabulary(self) -> Tensor:
        """All tokens' ids."""
        return torch.arange(self.size)
