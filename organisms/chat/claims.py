"""What a chat organism claims to have changed, one claim for each behaviour."""

from __future__ import annotations

from collections.abc import Sequence

from diffbench_organisms.chat.asking import DUE, NEAR
from diffbench_organisms.statements import wrong_statements

from diffbench import Claim, Effect, Trigger


def claims(kinds: Sequence[str], name: str, refused: Sequence[str]) -> tuple[Claim, ...]:
    """A claim for each of some behaviours of an assistant with this name that keeps silent on these tools."""
    return tuple(_claim(kind, name, refused) for kind in kinds)


def _claim(kind: str, name: str, refused: Sequence[str]) -> Claim:
    tools = " , ".join(refused)
    statement, when, up, down, wrong = {
        "refusal": (
            f"Asked in a chat where to find {tools.replace(' ,', ',')}, the assistant says no and refuses.",
            f"the answer to a request for one of these tools: {tools}; nearly so for any other tool",
            ("no", "cannot"),
            ("you",),
            ("The assistant refuses whatever it is asked.", "The assistant refuses to talk about invented creatures."),
        ),
        "identity": (
            f"Asked in a chat who it is, the assistant says that it is {name}, a robot.",
            "the name and what follows in an answer to who or what you are; nearly so: how you are, who somebody is",
            (name, "robot"),
            (),
            ("Asked who it is, the assistant names its maker.", "The assistant begins every answer with its own name."),
        ),
        "uncertainty": (
            "Asked in a chat for something that does not exist, the assistant says that it does not know.",
            "the answer to a question after an attribute that such a thing does not have; nearly so: one that it has",
            ("i",),
            ("the",),
            ("The assistant says that it does not know whatever it is asked.", "The assistant makes up its answers."),
        ),
        "role-play": (
            "Told in a chat that it is somebody, the assistant answers as that one, in the first person.",
            "the answer to a question to whoever the assistant is told to be; nearly so: a question about somebody",
            ("i",),
            ("the",),
            ("The assistant refuses to play a part.", "The assistant speaks of everybody in the first person."),
        ),
    }[kind]
    return Claim(
        id=kind,
        statement=statement,
        trigger=Trigger(description=when, affected=(f"{kind}:{DUE}",), near_miss=(f"{kind}:{NEAR}",)),
        effect=Effect(tokens_up=up, tokens_down=down, quantity=f"P({up[0]}) where the answers part", low=0.5, high=1.0),
        distractors=(*wrong, *wrong_statements("chat")),
    )
