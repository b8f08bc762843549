"""A causal tree as a Mermaid flowchart, for a page of Markdown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from headrace.cli.text import duration, to_json
from headrace.engine.tracing.fold import FAILED, Folded, effects_shown, measured, path_to
from headrace.engine.tracing.tree import Node

if TYPE_CHECKING:
    from headrace.cli.trace_found import Trace

LABEL_CHARS_MAX: Final = 80
_SPECIAL: Final = re.compile(r"[^\w \-.,:/+%…]")


def flowchart(found: Trace, *, whole: bool) -> str:
    """Return the tree as the text of a flowchart; of many alike only some, unless *whole*."""
    tree, wanted = found.tree, path_to(found.tree, found.asked)
    sizes, wrong = measured(tree)
    out = [
        "flowchart LR",
        "  classDef failed stroke:#c00,stroke-width:2px",
        "  classDef asked stroke-width:4px",
        _box(found.root, found),
    ]
    queue = [found.root]
    while queue:
        node = queue.pop()
        shown: list[Node | Folded]
        if whole:
            shown = [tree.nodes[effect] for effect in node.effects]
        else:
            shown = effects_shown(tree, node, wanted, sizes, wrong)
        for effect in shown:
            if isinstance(effect, Folded):
                name = f"m{effect.sequences[0]}"
                text = f"{len(effect.sequences)} more: {effect.name}"
                out += [f'  {name}["{_label(text)}"]', f"  n{node.sequence} -.-> {name}"]
                continue
            queue.append(effect)
            ns = effect.at_ns - node.at_ns
            after = f'|"+{duration(ns)}"|' if ns > 0 else ""
            out += [_box(effect, found), f"  n{node.sequence} -->{after} n{effect.sequence}"]
            out += [
                f"  n{other} -.-> n{effect.sequence}"
                for other in effect.also
                if other in tree.nodes
            ]
    return "\n".join(out)


def _box(node: Node, found: Trace) -> str:
    text = f"{node.kind} {node.sequence}: {node.name}"
    if node.span is not None:
        took_ns = node.span.took_ns
        took = "" if took_ns is None else f" in {duration(took_ns)}"
        key = "" if node.key is None else f" {to_json(node.key)}"
        text = f"{node.name}{key}, run {node.sequence}, {node.span.status}{took}"
    opened, closed = ("(", ")") if node.span is not None else ("[", "]")
    if node.kind == "event":
        opened, closed = "([", "])"
    marks = ":::failed" if node.span is not None and node.span.status in FAILED else ""
    if node.sequence == found.asked and not marks:
        marks = ":::asked"
    return f'  n{node.sequence}{opened}"{_label(text)}"{closed}{marks}'


def _label(text: str) -> str:
    """Return *text* with all that Mermaid or HTML would act on as numbered characters."""
    cut = text if len(text) <= LABEL_CHARS_MAX else f"{text[:LABEL_CHARS_MAX]}…"
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", cut)
