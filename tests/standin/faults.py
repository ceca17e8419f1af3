"""What goes wrong, and when? Rules that the tests set; each matches requests and is used up after some hits."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Fault:
    """One rule.

    Attributes:
        match: Regular expression on "METHOD path".
        kind: "status": answer with `status`. "drop": close the connection. "delay": wait `seconds`, then go on.
            "cut": answer, but stop in the middle of the body. "intrude": someone commits `path` to the default branch
            of `repo` first. "spoil": a byte of the blob of `path` in `repo` changes once the request is carried out.
        status: Of the answer.
        headers: Of the answer.
        message: X-Error-Message of the answer.
        seconds: Of the delay.
        skip: Matching requests to let through first.
        times: Requests to hit; after that the rule does nothing.
        repo: Such as "datasets/owner/name".
        path: In `repo`.
        after: Carry the request out before failing it: the answer is lost, the change is made.
    """

    match: str
    kind: str
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    seconds: float = 0.0
    skip: int = 0
    times: int = 1
    after: bool = False
    repo: str = ""
    path: str = ""
    hits: int = 0
    struck: str = ""


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self.rules: list[Fault] = []

    def set(self, rules: list[dict[str, Any]]) -> None:
        self.rules = [Fault(**rule) for rule in rules]

    def strike(self, request: str) -> Fault | None:
        """The fault that hits this request, counted."""
        for rule in self.rules:
            if rule.times > 0 and re.search(rule.match, request):
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                rule.times -= 1
                rule.hits += 1
                rule.struck = request
                return rule
        return None

    def state(self) -> list[dict[str, Any]]:
        return [asdict(rule) for rule in self.rules]
