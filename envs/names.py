"""What a user may have meant by the name of an environment that is not known."""

from __future__ import annotations

import re
from collections.abc import Iterable

from machina.envs.atari_games import ATARI57
from machina.errors import nearest

_VERSION = re.compile(r"-v(\d+)$")
_ATARI_VARIANT = re.compile(r"(-ram)?(NoFrameskip|Deterministic)?$")


def meant(name: str, own: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'pong'?``.

    Names are compared without case, punctuation, version and namespace, so that ``ALE/MsPacman-v5`` and
    ``MsPacmanNoFrameskip-v4`` are ms_pacman and ``cartpole`` is CartPole-v1.

    Args:
        name: as given; games may be joined by commas.
        own: the names that are not gymnasium's.
    """
    import gymnasium

    from machina.envs.atari import all_games

    own = [*dict.fromkeys([*ATARI57, *all_games(), *own])]
    by_letters = {_letters(each): each for each in own}
    parts = [by_letters.get(_letters(_ATARI_VARIANT.sub("", _stem(part)))) for part in name.split(",")]
    if all(parts):
        return f"; did you mean {','.join(filter(None, parts))!r}?"
    wanted = next(part for part, found in zip(name.split(","), parts, strict=True) if found is None)
    same = [known for known in gymnasium.registry if _letters(_stem(known)) == _letters(_stem(wanted))]
    if same:
        return f"; did you mean {max(same, key=_newest)!r}?"
    return nearest(wanted, [*own, *gymnasium.registry]) or "; see `machina list`"


def _stem(name: str) -> str:
    """Without module, namespace and version."""
    return _VERSION.sub("", name.rpartition(":")[2].rpartition("/")[2])


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _newest(name: str) -> tuple[bool, int]:
    """Gymnasium's own before those of a namespace, such as jax's, then the latest version."""
    version = _VERSION.search(name)
    return "/" not in name, int(version[1]) if version else 0
