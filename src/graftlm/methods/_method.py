"""What a method's file holds: one config class, `acts(config, sites)`, and perhaps `kept(config)`.

`acts` says what a run with this config does on a model, as data; it needs shapes only, so a model on the meta
device will do. `kept` gives the config that the stored form has, where a reparametrisation is dropped.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from graftlm.core import registry
from graftlm.core.config import Config
from graftlm.core.errors import UserError
from graftlm.sites import Act, Sites

PACKAGE = "graftlm.methods"
UNION = "union"


class MethodConfig(Config):
    """The options of one method; its class lives in the method's file."""

    @property
    def method(self) -> str:
        """The method's public name."""
        return registry.name_of(type(self).__module__)


def module_of(config: MethodConfig) -> ModuleType:
    return registry.load(PACKAGE, "method", config.method)


def config_class(method: str) -> type[MethodConfig]:
    """The config class of a method by its public name."""
    module = registry.load(PACKAGE, "method", method)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, MethodConfig) and value.__module__ == module.__name__
    ]
    return found[0]


def parse(method: str, options: Mapping[str, Any], where: str = "method.") -> MethodConfig:
    """A method's config from its name and plain options; "lora+prefix" is the union of two."""
    if method == "lora+":
        raise UserError('LoRA+ is an option of lora: method "lora" with method.plus=16; a union is written lora+prefix')
    if "," in method:
        raise UserError(f'method "{method}" names several; a union is written with +, and compare takes --methods')
    if "+" in method:
        options = {"parts": method.split("+"), **options}
        method = UNION
    return config_class(method).parse(options, where=where)


def acts(config: MethodConfig, sites: Sites) -> Sequence[Act]:
    """What a run with this config does on this model."""
    return module_of(config).acts(config, sites)


def kept(config: MethodConfig) -> MethodConfig:
    """The config of the stored form."""
    drop = getattr(module_of(config), "kept", None)
    return config if drop is None else drop(config)


def with_labels(config: MethodConfig, labels: Sequence[str]) -> MethodConfig:
    """The config with the task's labels' names, where it starts from them and names none itself."""
    given = getattr(module_of(config), "with_labels", None)
    return config if given is None else given(config, labels)


def learning_rate(config: MethodConfig) -> float:
    """The rate that suits a method where none is given."""
    own = module_of(config)
    return own.learning_rate(config) if hasattr(own, "learning_rate") else own.LEARNING_RATE


def needs(config: MethodConfig, option: str, other: str, *wanted: object) -> None:
    """Refuses an option that nothing reads: another value than its default, where `other` is none of `wanted`."""
    value, found = getattr(config, option), getattr(config, other)
    if found in wanted or value == type(config).model_fields[option].default:
        return
    ways = " or ".join(map(_said, wanted))
    given = f'"{value}"' if isinstance(value, str) else _said(value)
    raise UserError(f"method.{option} = {given} needs method.{other} = {ways}, but it is {_said(found)}")


def _said(value: object) -> str:
    """A value as it is written in YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_said, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def needs_table(config: MethodConfig, sites: Sites) -> None:
    """Refuses a method that needs roles which structure alone does not show."""
    if sites.table is None:
        raise UserError(
            f'{config.method} needs to know the blocks of "{sites.family}", which has no table; '
            "methods on layers (lora, bitfit) and full, top-k, head, prompt-tuning work without one"
        )
