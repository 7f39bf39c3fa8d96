"""The options of one run, as the YAML file, the command line and Python give them. Every run saves them resolved."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from graftlm.core.config import Config
from graftlm.core.errors import unknown

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
SEEDS = 1 << 32  # NumPy's generators take no larger ones


def precision_of(given: str) -> Precision:
    """The precision of that name."""
    for known in PRECISIONS:
        if given == known:
            return known
    raise unknown("precision", given, PRECISIONS)


def _name(text: str) -> str:
    if "\0" in text:
        raise ValueError("a name holds no NUL")
    return text


Name = Annotated[str, AfterValidator(_name)]


class DataConfig(Config):
    """Where the examples are. `path`: a folder of splits, one file, or a `datasets` name.

    `split`: fractions that one file is cut into, as {"train": 0.8, "validation": 0.1, "test": 0.1}; those three lie in
    this order whatever the order here, and others behind them.
    `columns`: our name -> theirs, as {"text": "body", "label": "stars"}. `shots`: balanced few-shot train and
    validation sets, drawn from train with `shots_seed` as LM-BFF does; a label that is too rare for both is refused, or
    by `shots_rare` = "half" gives half of its examples to each. `mark`: entity columns to mark in the text.
    `limit`: the first examples of each split only. `cache`: keep the token ids of large splits of whole texts on disk,
    in ~/.cache/graftlm/features, which holds 1 GiB at most and may be deleted at any time. `skip_bad`: count the rows
    that a task cannot use and leave them out, where the first one would be an error.
    """

    path: Name
    split: Mapping[str, PositiveFloat] = {}
    columns: Mapping[str, str] = {}
    shots: PositiveInt | None = None
    shots_seed: NonNegativeInt = Field(default=13, lt=SEEDS)
    shots_rare: Literal["refuse", "half"] = "refuse"
    mark: tuple[str, str] | None = None
    limit: Mapping[str, PositiveInt] = {}
    cache: bool = True
    skip_bad: bool = False

    @model_validator(mode="after")
    def _whole(self) -> "DataConfig":
        if self.split and sum(self.split.values()) > 1 + 1e-6:
            raise ValueError(f"the fractions add up to {sum(self.split.values()):g}; 1 is the most")
        return self


def _task(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {"name": "classification", **value}
    return {"name": value} if isinstance(value, str) else value


class HeadConfig(Config):
    """`pooling`: the architecture's own ("default"), the "first" or "last" real token, or the "mean" of them;
    "virtual" is the architecture's own with a prompt's virtual tokens counted too, as PEFT does.
    """

    pooling: Literal["default", "virtual", "first", "last", "mean"] = "default"
    dropout: NonNegativeFloat = Field(default=0.0, lt=1)


def _line(value: Any) -> Any:
    if isinstance(value, Mapping):  # YAML takes {text} for a mapping
        raise ValueError("is read as a mapping; put it into quotes of its own, as '{text} It was {mask}.'")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"holds half a surrogate pair at character {error.start + 1}") from None
    return value


class PromptConfig(Config):
    """The prompt formulation: `template`, as "{text} It was {mask}.", and `verbalizer`, the words of each label, as
    {"positive": "great", "negative": ["terrible", "bad"]}, or {"name": "manual", "words": …} with its options. A task
    that writes texts has none, and a template as "{text} Summary: {target}".

    `soft`: the method that makes the template's virtual tokens, by name or with options, as {name: ptuning}.
    `chat_template`: how turns are written, the tokenizer's own by default. `aliases`, other names of text and
    text_pair, are found in the data. `calibration`: what the prompt says of labels without a text is taken off, the
    mean of three texts without content ("contextual") or an empty one ("pmi"). `mlm_weight`: the share of the masked
    language modelling loss on the same prompts, (1 − w) · own + w · mlm.
    """

    template: Annotated[Name, BeforeValidator(_line)]
    verbalizer: Mapping[str, Any] = {}
    soft: Mapping[str, Any] = {"name": "prompt-tuning"}
    chat_template: str | None = None
    aliases: Mapping[str, str] = {}
    calibration: Literal["contextual", "pmi"] | None = None
    mlm_weight: NonNegativeFloat = Field(default=0.0, lt=1)

    @field_validator("soft", mode="before")
    @classmethod
    def _long(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class TrainingConfig(Config):
    """The loop. `learning_rate`: None takes the method's own. `eval_steps`: None evaluates after each epoch.

    `batch_tokens`: batches of at most so many tokens, padding and virtual tokens included, in place of so many
    examples; a batch has one at least, and `batch_size` then says only how many examples are sorted by length together,
    32 times as many.
    `accumulation`: a step takes so many batches, and an epoch's last step those that are left; each of its examples
    counts alike, so that every example is learned from once an epoch, however many a step takes.
    `max_length` counts tokens of the text, special tokens included, without virtual tokens.
    `patience`: evaluations without a better validation metric before the run stops; 0 never stops early.
    A checkpoint is saved `save_seconds` after the last one, or later where saving would take more than a tenth of the
    time, and every `save_steps` where that is given. `keep_checkpoints`: how many stay when the run is done.
    `kernels`: the frozen base is computed by what is quickest on this machine ("auto"), with its weights packed too,
    which takes twice their memory besides ("packed"), or by plain "torch". `cache`: what no run acts on below is
    computed once for each example ("auto"), where that fits into a quarter of the free memory and the examples are met
    at least twice, but for a base that is trained in bf16; "off" never keeps it.
    `base_dropout`: a run alone is trained with all of the base's own dropout, but LayerDrop, which leaves layers out.
    """

    optimizer: str = "adamw"
    learning_rate: PositiveFloat | None = None
    head_learning_rate: PositiveFloat | None = None
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: NonNegativeFloat = Field(default=0.06, lt=1)
    epochs: PositiveFloat = 3.0
    max_steps: PositiveInt | None = None
    max_seconds: PositiveFloat | None = None
    batch_size: PositiveInt = 32
    batch_tokens: PositiveInt | None = None
    eval_batch_size: PositiveInt = 64
    accumulation: PositiveInt = 1
    clip: NonNegativeFloat = 1.0
    precision: Precision = "fp32"
    kernels: Literal["auto", "packed", "torch"] = "auto"
    cache: Literal["auto", "off"] = "auto"
    base_dropout: bool = False
    gradient_checkpointing: bool = False
    max_length: PositiveInt | None = None
    eval_steps: PositiveInt | None = None
    patience: NonNegativeInt = 0
    metric: str | None = None
    log_steps: PositiveInt = 10
    save_steps: PositiveInt | None = None
    save_seconds: PositiveFloat = 60.0
    keep_checkpoints: NonNegativeInt = 0
    trackers: tuple[str, ...] = ()


class FitConfig(Config):
    """One run, whole. `method`: {"name": "lora", "rank": 4}, or the name alone, or {"union": ["lora", "prefix"]}.

    `task`: {"name": "spans", "stride": 64}, or the name alone; without one, classification. `prompt`: the model's own
    LM head in place of a new one.
    """

    model: Name
    task: Annotated[Mapping[str, Any], BeforeValidator(_task)] = {"name": "classification"}
    data: DataConfig
    method: Mapping[str, Any]
    prompt: PromptConfig | None = None
    head: HeadConfig = HeadConfig()
    training: TrainingConfig = TrainingConfig()
    out: Name
    seed: NonNegativeInt = Field(default=0, lt=SEEDS)
    predict: bool = False
    overwrite: bool = False

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            values = dict(values)
            if isinstance(values.get("method"), str):
                values["method"] = {"name": values["method"]}
            if isinstance(method := values.get("method"), Mapping) and "union" in method and "name" not in method:
                rest = {name: value for name, value in method.items() if name != "union"}
                values["method"] = {"name": "union", "parts": method["union"], **rest}
            if isinstance(values.get("data"), str):
                values["data"] = {"path": values["data"]}
        return values

    @model_validator(mode="after")
    def _named(self) -> "FitConfig":
        if not isinstance(self.method.get("name"), str):
            raise ValueError("method needs a name, as {name: lora, rank: 4}")
        if not isinstance(self.task.get("name"), str):
            raise ValueError("task needs a name, as {name: spans, stride: 64}")
        return self
