"""Where a method acts, as a Mermaid diagram of one Transformer block, drawn from the acts themselves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from graftlm.sites import Act, Select, Sites

Stages = Sequence[Sequence[str]]

BEFORE: Stages = [["text"], ["embedding", "embedding.position", "embedding.type"], ["norm.embedding"]]
ATTENTION: Stages = [["attention.query", "attention.key", "attention.value"], ["attention"], ["attention.output"]]
FEEDFORWARD: Stages = [["feedforward.gate", "feedforward.input"], ["feedforward.output"]]
AFTER: Stages = [["norm.final"], ["pooler"], ["head"]]
ALWAYS = ("text", "attention", "head")  # drawn though no site has these names
ENTERS = {"past": "attention", "tokens": "embedding"}  # where acts without a site come in
COLOURS = {"branch": "#ffd8a8", "past": "#a5d8ff", "tokens": "#b2f2bb", "select": "#ffc9c9"}
OTHER = "#eebefa"


@dataclass
class Place:
    """The acts of one kind at one node: their tensors' names, and the blocks that they lie in."""

    kind: str
    node: str
    tensors: list[str] = field(default_factory=list)
    layers: set[int] = field(default_factory=set)

    @property
    def label(self) -> str:
        return f"{self.kind}: {', '.join(self.tensors)}" if self.tensors else self.kind


def places(acts: Iterable[Act], sites: Sites) -> list[Place]:
    """The acts gathered by kind and node."""
    found: dict[tuple[str, str], Place] = {}
    modules = {site.module: site for site in sites.all if site.kind != "span"}
    for act in acts:
        kind = type(act).__name__.lower()
        if isinstance(act, Select):
            module, _, tensor = act.parameter.rpartition(".")
            site, names = modules.get(module), [tensor]
        else:
            site, names = getattr(act, "site", None), list(getattr(act, "params", {}))
        node = site.role if site is not None else ENTERS.get(kind, kind)
        place = found.setdefault((kind, node), Place(kind, node))
        place.tensors += [name for name in names if name not in place.tensors]
        if site is not None and site.layer is not None:
            place.layers.add(site.layer)
    return list(found.values())


def draw(acts: Sequence[Act], sites: Sites) -> str:
    """The whole diagram: the sites that this model has, those acted on in colour."""
    own = places(acts, sites)
    roles = {site.role for site in sites.all}
    after_addition = (
        sites.table is not None and next(iter(sites.table.stacks.values())).spans["span.attention"].norm is not None
    )
    parts: list[tuple[str, Stages]] = [("span.attention", ATTENTION), ("span.feedforward", FEEDFORWARD)]
    lines = ["flowchart TB"]
    chain = _nodes(lines, BEFORE, roles, own, "    ")
    lines.append(f'    subgraph block ["{_block(own, sites.depth)}"]')
    for span, stages in parts:
        norm: Stages = [[f"norm.{span.removeprefix('span.')}"]]
        before, after = ([], norm) if after_addition else (norm, [])
        chain += _nodes(lines, before, roles, own, "        ")
        lines.append(f'        subgraph {_id(span)} ["{_label(span, span.removeprefix("span."), own)}"]')
        chain += _nodes(lines, stages, roles, own, "            ")
        lines.append("        end")
        chain += _nodes(lines, after, roles, own, "        ")
    lines.append("    end")
    chain += _nodes(lines, AFTER, roles, own, "    ")
    lines += [f"    {' & '.join(one)} --> {' & '.join(other)}" for one, other in pairwise(chain)]
    drawn = {node for stage in chain for node in stage} | {_id(span) for span, _ in parts}
    return "\n".join(lines + _acting(own, drawn))


def _nodes(lines: list[str], stages: Stages, roles: set[str], own: Sequence[Place], indent: str) -> list[list[str]]:
    """Writes the nodes that this model has, and gives their names stage by stage."""
    chain: list[list[str]] = []
    for stage in stages:
        there = [role for role in stage if role in roles or role in ALWAYS]
        for role in there:
            words = {"text": "the text's tokens", "head": "the task's head, trained by every method"}.get(role, role)
            shape = ("([", "])") if role in ("text", "head") else ("[", "]")
            lines.append(f'{indent}{_id(role)}{shape[0]}"{_label(role, words, own)}"{shape[1]}')
        if there:
            chain.append([_id(role) for role in there])
    return chain


def _acting(own: Sequence[Place], drawn: set[str]) -> list[str]:
    """Nodes for what comes in from outside the model, and the colours."""
    lines: list[str] = []
    for place in own:
        node = _id(place.node)
        if place.kind in ENTERS or node not in drawn:
            outside = f"{_id(place.kind)}_act"
            lines.append(f'    {outside}{{{{"{place.label}"}}}}')
            lines += [f"    {outside} ==> {node}"] if node in drawn else []
            lines.append(f"    class {outside} {place.kind}")
        if node in drawn:
            lines.append(f"    class {node} {place.kind}")
    kinds: Mapping[str, None] = dict.fromkeys(place.kind for place in own)
    return lines + [f"    classDef {kind} fill:{COLOURS.get(kind, OTHER)},stroke:#343a40,color:#000" for kind in kinds]


def _label(role: str, words: str, own: Sequence[Place]) -> str:
    acting = [place.label for place in own if place.node == role and place.kind not in ENTERS]
    return "<br/>".join([words, *acting])


def _block(own: Sequence[Place], depth: int) -> str:
    layers = set().union(*(place.layers for place in own))
    if not layers or len(layers) == depth:
        return f"each of the {depth} blocks"
    return f"{depth} blocks; acted on in block {', '.join(str(layer + 1) for layer in sorted(layers))}"


def _id(role: str) -> str:
    """A name that Mermaid takes; `end` and `class` are among its own words, and no role is one."""
    return "".join(letter if letter.isalnum() else "_" for letter in role)
