"""Metrics of texts against one or several references each: those of sacrebleu and rouge-score, and exact matches."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal, get_args

Metric = Literal["bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match", "numeric_match"]
METRICS: tuple[str, ...] = get_args(Metric)
WHOLE = r"(?:\d{1,3}(?:,\d{2,3})*,\d{3}(?!\d)|\d+)"  # commas part thousands, and in a list its numbers
CENTS = r"(?<![\d,])\d+,0\d(?![\d,]|\.\d)"  # of two digits with a zero first they can be of no list
POWER = r"(?:[eE][-+−]?\d{1,4}(?!\w))?"
NUMBER = re.compile(rf"(?:(?<!\d)[-−])?(?:{CENTS}|(?:{WHOLE}(?:\.\d+)?|\.\d+){POWER})")
Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], float]


def score(
    names: Sequence[str], texts: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> dict[str, float]:
    """Each metric by name; BLEU and chrF from 0 to 100, as sacrebleu gives them, all others from 0 to 1."""
    found: dict[str, float] = {}
    for name in names:
        if name == "bleu":
            found[name] = bleu(texts, references, tokenizer)
        elif name.startswith("rouge"):
            found[name] = rouge(texts, references, name)
        else:
            found[name] = SCORERS[name](texts, references)
    return found


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "13a") -> float:
    """sacrebleu's corpus BLEU (Post, 2018)."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenizer).corpus_score(texts, _streams(references)).score  # pyright: ignore[reportArgumentType]


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """sacrebleu's corpus chrF2 (Popović, 2015)."""
    from sacrebleu.metrics.chrf import CHRF

    return CHRF().corpus_score(texts, _streams(references)).score  # pyright: ignore[reportArgumentType]


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """As sacrebleu takes them: the first reference of each text, then the second, None where there is none."""
    most = max((len(own) for own in references), default=0)
    return [[own[place] if place < len(own) else None for own in references] for place in range(most)]


def rouge(texts: Sequence[str], references: Sequence[Sequence[str]], name: str) -> float:
    """rouge-score's F-measure (Lin, 2004), of the nearest reference, as the texts' mean; without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([name])
    each = [scorer.score_multi(own, text)[name].fmeasure for text, own in zip(texts, references, strict=True)]
    return _mean(each)


def exact_match(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of texts that are one of their references, white space at the ends apart."""
    return _mean([text.strip() in {one.strip() for one in own} for text, own in zip(texts, references, strict=True)])


def numeric_match(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of texts whose last number is the last one of a reference; 1,000 and 1000.0 are the same number."""
    matches = [
        (number := last_number(text)) is not None and number in map(last_number, own)
        for text, own in zip(texts, references, strict=True)
    ]
    return _mean(matches)


def last_number(text: str) -> Decimal | None:
    """The last number in a text."""
    found = NUMBER.findall(text)
    if not found:
        return None
    last = found[-1].replace("−", "-")
    return Decimal(last.replace(",", "." if re.fullmatch(rf"-?{CENTS}", last) else ""))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


SCORERS: dict[str, Scorer] = {"chrf": chrf, "exact_match": exact_match, "numeric_match": numeric_match}
