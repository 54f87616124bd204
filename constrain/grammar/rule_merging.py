"""Merges the rules of a grammar that are written alike, by Moore's partition refinement, as it
minimizes an automaton: recursive rules are merged too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping

from formgate.constrain.grammar.cfg import Repeat, Rule, Sequence, Symbol


def equivalent_rules(rules: Mapping[int, list[Sequence]]) -> dict[int, int]:
    """Maps each rule to the one that replaces it. `rules` must hold every rule that it uses."""
    used: dict[int, list[int]] = {}
    forms: dict[Hashable, list[int]] = defaultdict(list)
    for number, sequences in rules.items():
        used[number] = []
        forms[_form(sequences, used[number])].append(number)
    groups = _Partition(list(forms.values()), used)
    while groups.unsure:
        groups.refine()
    return {number: groups.members[at][0] for number, at in groups.of.items()}


class _Partition:
    """Groups of rules, refined until the members of a group use the same groups in the same places.
    Members that are not `unsure` already do.
    """

    def __init__(self, members: list[list[int]], used: Mapping[int, list[int]]) -> None:
        self.members = members
        self.of = {number: at for at, group in enumerate(members) for number in group}
        self.unsure = {number for group in members if len(group) > 1 for number in group}
        self._used = used
        self._users: dict[int, list[int]] = {number: [] for number in used}
        for number, parts in used.items():
            for part in parts:
                self._users[part].append(number)

    def refine(self) -> None:
        unsure: dict[int, list[int]] = defaultdict(list)
        for number in self.unsure:
            if len(self.members[self.of[number]]) > 1:
                unsure[self.of[number]].append(number)
        # Moving a part changes what the others use, so all parts are found first.
        leaving = [(at, part) for at, group in unsure.items() for part in self._parts(at, group)]
        self.unsure = set()
        for at, part in leaving:
            moved = set(part)
            self.members[at] = [number for number in self.members[at] if number not in moved]
            for number in part:
                self.of[number] = len(self.members)
                self.unsure.update(self._users[number])
            self.members.append(part)

    def _parts(self, at: int, unsure: list[int]) -> list[list[int]]:
        """The parts that leave a group: its unsure members, grouped by the groups they use."""
        found: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number in unsure:
            found[self._uses(number)].append(number)
        if len(unsure) < len(self.members[at]):
            waiting = set(unsure)
            sure = next(number for number in self.members[at] if number not in waiting)
            found.pop(self._uses(sure), None)
        else:
            found.pop(max(found, key=lambda uses: len(found[uses])))
        return list(found.values())

    def _uses(self, number: int) -> tuple[int, ...]:
        return tuple(self.of[part] for part in self._used[number])


def _form(sequences: Iterable[Iterable[Symbol]], used: list[int]) -> Hashable:
    """The right-hand sides without the names of rules, which are appended to `used`."""
    form: list[Hashable] = []
    for sequence in sequences:
        for symbol in sequence:
            if isinstance(symbol, Rule):
                used.append(symbol.number)
                form.append(None)
            elif isinstance(symbol, Repeat):
                form.append((symbol.least, symbol.most, _form((symbol.parts,), used)))
            else:
                form.append(symbol.text)
        form.append(0)
    return tuple(form)
