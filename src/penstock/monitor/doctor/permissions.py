"""Judgements of permissions: from the words that a user lacks to findings."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from penstock.events import printable
from penstock.monitor.doctor.findings import Finding, fail, note, ok
from penstock.monitor.doctor.probes import Answer
from penstock.monitor.doctor.roles import PERMISSIONS, Role

__all__ = ["best", "check_permissions"]

_ORDER: Final = (Answer.ALLOWED, Answer.ABSENT, Answer.REFUSED, Answer.UNKNOWN)
_ABOVE: Final = "see above"
_A_LINE: Final = "there is a line in ACL LOG for each connection, and nothing else"


def best(answers: Iterable[tuple[str, Answer]]) -> dict[str, Answer]:
    """Return the answer for each word: one way in which it is allowed is enough."""
    found: dict[str, Answer] = {}
    for word, answer in answers:
        found[word] = min(found.get(word, answer), answer, key=_ORDER.index)
    return found


def check_permissions(
    role: Role, answers: Mapping[str, Answer], stream: str | None, user: str | None
) -> Iterator[Finding]:
    """Yield the findings about the permissions of a role: at least one.

    Args:
        role: The role.
        answers: What the server said of each word.
        stream: The stream; None if only commands were checked.
        user: The user's name; None if it is not known.
    """
    needed, optional = PERMISSIONS[role]
    lacks = [word for word in needed.split() if answers.get(word) is Answer.REFUSED]
    # A user who is not known is named by the placeholder of the docs.
    name = "USER" if user is None else user
    who = "this user" if user is None else f"user {printable(user, 60)}"
    actor = f"{'an' if role.startswith('o') else 'a'} {role}"
    found: list[Finding] = []
    if lacks:
        found.append(
            fail(
                "permissions",
                f"{who} lacks what {actor} needs: {_shown(lacks, stream)}",
                f"the work of {actor} is refused (NOPERM)",
                _grant(name, lacks, stream),
            )
        )
    for words, purpose, without in optional:
        some = [w for w in words.split() if answers.get(w) is Answer.REFUSED]
        if some:
            text = _A_LINE if purpose.startswith(_ABOVE) else f"{purpose}: {without}"
            found.append(
                note(
                    "permissions",
                    f"{who} lacks what {actor} can do without: {_shown(some, stream)}",
                    text.replace("`", ""),
                    _grant(name, some, stream),
                )
            )
    yield from found
    unknown = [word for word, each in answers.items() if each is Answer.UNKNOWN]
    if unknown:
        yield note(
            "permissions",
            f"not known: whether {who} has {_shown(unknown, stream)}",
            "the server does not tell this user (ACL DRYRUN), and the words can't be "
            "tried without them or without a change",
        )
    if stream is None:
        yield note(
            "permissions",
            "only commands were checked, and no keys",
            "name a stream to have the words for its keys and channels checked",
            f"penstock doctor --role {role} --stream STREAM",
        )
    if not found and not unknown:
        yield ok(
            "permissions",
            f"{who} has what {actor} needs",
            "nothing will be refused",
        )


def _real(words: Iterable[str], stream: str | None) -> list[str]:
    unique = dict.fromkeys(words)
    return [w if stream is None else w.replace("orders", stream) for w in unique]


def _shown(words: Iterable[str], stream: str | None) -> str:
    return " ".join(printable(word, 100) for word in _real(words, stream))


def _grant(user: str, words: Iterable[str], stream: str | None) -> str:
    quoted = " ".join(map(shlex.quote, _real(words, stream)))
    return f"redis-cli ACL SETUSER {shlex.quote(user)} {quoted}"
