"""Splits Cedar text into policies and bounds it: 1,000 parentheses would end the process inside Cedar's parser.

Cedar's parser and validator name no lines; the lines come from here.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_POLICIES = 200
MAX_TOKENS = 600
"""Of one policy."""
MAX_BRACKETS = 32
"""Levels of parentheses, brackets and braces."""

# A text without an end is one token: a scan from each of its quotes would take quadratic time.
_TOKEN = re.compile(
    r'(?P<space>\s+|//[^\n]*)|(?P<text>"(?:[^"\\]|\\.?)*(?:"|\Z))|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9]+)'
    r"|(?P<sign>::|==|!=|<=|>=|&&|\|\||.)",
    re.DOTALL,
)
_DASHED = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_WORDS = frozenset({"true", "false", "has", "like", "in", "is", "if", "then", "else", "resource", "datetime"})
_OPENING, _CLOSING = "([{", ")]}"


class CedarError(Exception):
    """The text is no policy of the subset. line: of the text that was given, from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


class OutsideSubsetError(Exception):
    """Cedar accepts the expression, and the subset does not. near: a word or sign of it."""

    def __init__(self, near: str, reason: str) -> None:
        super().__init__(reason)
        self.near = near
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its line."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class PolicyText:
    """Text of one policy with its first line, and its tokens."""

    text: str
    line: int
    tokens: tuple[Token, ...]

    def line_of(self, name: str) -> int:
        """Returns the line where a part before the conditions has `name`, in quotes or not; else the first line."""
        return _line_of(name, self._scope, self.line)

    def line_in_condition(self, name: str) -> int:
        """Returns the line where a condition has `name`; else the one where the conditions begin."""
        tokens = self.tokens[len(self._scope) :]
        return _line_of(name, tokens, tokens[0].line if tokens else self.line)

    @property
    def _scope(self) -> tuple[Token, ...]:
        texts = [token.text for token in self.tokens]
        return self.tokens[
            : min((texts.index(each) for each in ("when", "unless") if each in texts), default=len(texts))
        ]


def _line_of(name: str, tokens: Sequence[Token], otherwise: int) -> int:
    texts = {name, json.dumps(name, ensure_ascii=False)}
    return next((token.line for token in tokens if token.text in texts), otherwise)


def split(text: str) -> list[PolicyText]:
    """Returns the policies of a file. Raises CedarError for a policy that is too large or nested too deeply."""
    policies: list[PolicyText] = []
    current: list[tuple[Token, int]] = []
    for token, position in _tokens(text, _TOKEN):
        current.append((token, position))
        if len(current) > MAX_TOKENS:
            raise CedarError(current[0][0].line, f"a policy has {MAX_TOKENS} words and signs at most; split it")
        if token.text == ";":
            policies.append(_policy(text, current))
            current = []
        if len(policies) > MAX_POLICIES:
            raise CedarError(token.line, f"more than {MAX_POLICIES} policies")
    return [*policies, _policy(text, current)] if current else policies


def _policy(text: str, tokens: Sequence[tuple[Token, int]]) -> PolicyText:
    _bound_depth([token for token, _ in tokens])
    begin, (last, end) = tokens[0][1], tokens[-1]
    return PolicyText(text[begin : end + len(last.text)], tokens[0][0].line, tuple(token for token, _ in tokens))


def _bound_depth(tokens: Sequence[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if depth > MAX_BRACKETS:
            raise CedarError(token.line, f"more than {MAX_BRACKETS} levels of parentheses")


def _tokens(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[Token, int]]:
    line = 1
    for match in pattern.finditer(text):
        kind = match.lastgroup or "sign"
        if kind != "space":
            yield Token(kind, match[0], line), match.start()
        line += match[0].count("\n")


def expanded(expression: str) -> str:
    """Returns a workflow's expression as Cedar: names become columns of `resource`, `step.field` becomes `context`.

    A name may contain dashes, because there is no arithmetic. Raises CedarError.
    """
    tokens = [token for token, _ in _tokens(expression, _DASHED_TOKEN)]
    if len(tokens) > MAX_TOKENS:
        raise CedarError(1, f"a condition has {MAX_TOKENS} words and signs at most")
    _bound_depth(tokens)
    written: list[str] = []
    previous = ""
    for index, token in enumerate(tokens):
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        written.append(_expanded(token, previous, after))
        previous = token.text
    return " ".join(written)


_DASHED_TOKEN = re.compile(_TOKEN.pattern.replace("[A-Za-z_][A-Za-z0-9_]*", _DASHED.pattern), re.DOTALL)


def _expanded(token: Token, previous: str, after: str) -> str:
    if token.text in {"@", ";"}:
        raise CedarError(token.line, f"a condition is an expression, without `{token.text}`")
    if token.text == "." and after not in {"contains", ""}:
        return ""  # the field follows in brackets
    if token.kind != "name":
        return token.text
    if previous == "." and token.text != "contains":
        return f'["{token.text}"]'
    if previous == "has":
        return f'"{token.text}"'
    if previous == "." or token.text in _WORDS:
        return token.text
    return f'context["{token.text}"]' if after in {".", "has"} else f'resource["{token.text}"]'
