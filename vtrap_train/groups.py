"""Which parameters are trained, and how fast? Vision tower, projector and language model, asserted, not assumed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vtrap_data.errors import UsageError

Group = Literal["vision", "projector", "language"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """One row of the table that is printed before training.

    Attributes:
        parameters: Number of scalars in the group.
        trainable: How many of them get gradients.
        learning_rate: Peak, where anything is trained.
    """

    parameters: int
    trainable: int
    learning_rate: float | None


def group_of(name: str) -> Group:
    """The group of a parameter, by its name in any of the families.

    >>> group_of("model.visual.blocks.0.attn.qkv.weight"), group_of("model.visual.merger.mlp.0.weight")
    ('vision', 'projector')
    >>> group_of("model.language_model.layers.0.mlp.up_proj.weight"), group_of("lm_head.weight")
    ('language', 'language')
    """
    parts = name.split(".")
    if {"merger", "deepstack_merger_list", "multi_modal_projector", "image_newline"} & set(parts):
        return "projector"
    if {"visual", "vision_tower"} & set(parts):
        return "vision"
    return "language"


def check_groups(names: Iterable[str], *, setting: str) -> tuple[Group, ...]:
    """Validate group names given by a user. Raises UsageError naming the setting."""
    out: list[Group] = []
    for name in names:
        if name not in GROUPS:
            raise UsageError(f"{setting} {name!r} is no module group; allowed: {', '.join(GROUPS)}")
        out.append(name)
    return tuple(out)


def freeze(model: Any, groups: Collection[Group]) -> None:
    """Stop gradients into the groups and check that it worked.

    Raises:
        UsageError: If nothing would be left to train, or the model has no such group.
    """
    found = {group_of(name) for name, _ in model.named_parameters()}
    if missing := set(groups) - found:
        raise UsageError(f"--freeze {' '.join(sorted(missing))}: the model has only {', '.join(sorted(found))}")
    if not found - set(groups):
        raise UsageError(f"--freeze {' '.join(groups)} leaves nothing to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name) not in groups)
    assert_frozen(model, groups)


def assert_frozen(model: Any, groups: Collection[Group]) -> None:
    """Raise RuntimeError unless no parameter of the groups is trained: a flag on a module freezes nothing."""
    wrong = [n for n, p in model.named_parameters() if group_of(n) in groups and p.requires_grad]
    if wrong:
        raise RuntimeError(f"{len(wrong)} parameters of frozen groups would be trained, {wrong[0]} among them")


def assert_tied(model: Any) -> str:
    """Check that words in and words out share one tensor exactly where the configuration says so.

    Returns:
        A line for the table; empty where nothing is tied.

    Raises:
        RuntimeError: One of the two is not what the configuration says: the checkpoint would hold a stale copy, or
            training would move two tensors where the model has one.
    """
    said = bool(model.config.get_text_config().tie_word_embeddings)
    into, out = model.get_input_embeddings(), model.get_output_embeddings()
    shared = out is not None and into is not None and out.weight is into.weight
    if said != shared:
        raise RuntimeError(
            f"tie_word_embeddings is {said} in the configuration, and the output embeddings are "
            f"{'the same tensor as' if shared else 'another tensor than'} the input embeddings: mend the checkpoint"
        )
    return "tied       the output embeddings are the input embeddings, counted once, under language" if shared else ""


def facts(model: Any, rates: Mapping[Group, float]) -> dict[Group, GroupFacts]:
    """Count parameters per group."""
    out: dict[Group, GroupFacts] = {}
    for group in GROUPS:
        # ds_numel: under ZeRO-3 a parameter is an empty stand-in that knows how large it is.
        sizes = [
            (int(getattr(p, "ds_numel", p.numel())), p.requires_grad)
            for name, p in model.named_parameters()
            if group_of(name) == group
        ]
        trainable = sum(size for size, trained in sizes if trained)
        out[group] = GroupFacts(
            parameters=sum(size for size, _ in sizes),
            trainable=trainable,
            learning_rate=rates[group] if trainable else None,
        )
    return out


def table(groups: Mapping[Group, GroupFacts]) -> str:
    """The table as text."""
    lines = [f"{'group':<10} {'parameters':>15} {'trained':>15} {'learning rate':>14}"]
    for name, row in groups.items():
        rate = "frozen" if row.learning_rate is None else f"{row.learning_rate:.3g}"
        lines.append(f"{name:<10} {row.parameters:>15,} {row.trainable:>15,} {rate:>14}")
    return "\n".join(lines)


def optimizer_groups(
    model: Any, *, decayed: Collection[str], weight_decay: float, rates: Mapping[Group, float]
) -> Iterator[dict[str, Any]]:
    """Parameter groups for the optimiser: one for each module group with and without weight decay, none empty.

    The language model's come first: it is the rate of the first one that Trainer logs.
    """
    for group in reversed(GROUPS):
        for decays in (True, False):
            parameters = [
                p
                for name, p in model.named_parameters()
                if p.requires_grad and group_of(name) == group and (name in decayed) == decays
            ]
            if parameters:
                yield {
                    "params": parameters,
                    "weight_decay": weight_decay if decays else 0.0,
                    "lr": rates[group],
                }
