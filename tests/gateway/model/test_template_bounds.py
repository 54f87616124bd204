"""Chat templates that cost too much: each is refused in one line, at the start or by the request
that makes it costly, and templates that do not are rendered as before.
"""

from __future__ import annotations

import pytest

from formgate.gateway.model.chat_template import ChatTemplate, ChatTemplateError

DOUBLE = "{% set ns = namespace(s='xy', l=[1]) %}{% for i in range(60) %}"

AT_LOAD = {
    "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "loops over one list": (
        "{% set l = range(9999)|list %}{% for i in l %}{% for j in l %}{% endfor %}{% endfor %}"
    ),
    "calls of itself": (
        "{% for x in [1, 2, 3] recursive %}{% if loop.depth < 40 %}{{ loop([1, 2, 3]) }}"
        "{% endif %}{% endfor %}"
    ),
    "macros": (
        "{% macro m(n) %}{% if n %}{% set _ = m(n - 1) %}{% set _ = m(n - 1) %}{% endif %}"
        "{% endmacro %}{{ m(60) }}"
    ),
    "output": "{% set s = 'x' * 1000000 %}{% for i in range(9999) %}{{ s }}{% endfor %}",
    "copies": "{{ 'x' * 10**12 }}",
    "copies of a list": "{{ [1] * 10**12 }}",
    "a power": "{{ 10 ** (10 ** 9) }}",
    "a product": "{% set ns = namespace(n=7) %}{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}"
    "{% endfor %}",
    "sums of text": DOUBLE + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "joined text": DOUBLE + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "joined in a call": DOUBLE + "{% set ns.s = (ns.s ~ ns.s)|trim %}{% endfor %}",
    "sums of lists": DOUBLE + "{% set ns.l = ns.l + ns.l %}{% endfor %}",
    "set blocks": "{% set s = 'xy' %}"
    + "".join("{% set s %}{{ s }}{{ s }}{% endset %}" for _ in range(40)),
    "a width": "{{ 'x'|center(10**10) }}",
    "a method's width": "{{ 'x'.ljust(10**10) }}",
    "a format": "{{ '%9999999999d' % 5 }}",
    "a format's star": "{{ '%*d'|format(9999999999, 5) }}",
    "a method's format": "{{ '{:>9999999999}'.format(5) }}",
    "a format's argument": "{{ '{:>{w}}'.format(5, w=9999999999) }}",
    "replacements": "{% set s = 'x' * 100000 %}{{ s|replace('x', s) }}",
    "a method's replacements": "{% set s = 'x' * 100000 %}{{ s.replace('x', s) }}",
    "a joint": "{% set s = 'x' * 100000 %}{{ range(99999)|join(s) }}",
    "a method's joint": "{% set s = 'x' * 100000 %}{{ s.join('x' * 99999) }}",
    "an indent": "{{ range(99999)|list|tojson(indent=99999) }}",
}


@pytest.mark.parametrize("source", AT_LOAD.values(), ids=AT_LOAD)
def test_a_costly_template_is_refused_at_load(source: str) -> None:
    with pytest.raises(ChatTemplateError) as refused:
        ChatTemplate(source, {})
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 200


def test_a_request_that_makes_a_template_costly_is_refused() -> None:
    """Others go on."""
    source = (
        "{% for m in messages %}{% for i in range(n) %}{% for j in range(n) %}{% endfor %}"
        "{% endfor %}{{ m.content }}{% endfor %}"
    )
    template = ChatTemplate(source, {})
    said = [{"role": "user", "content": "hello"}]
    with pytest.raises(ChatTemplateError, match="it cannot be rendered: it takes more than"):
        template.render(said, kwargs={"n": 90_000})
    assert template.render(said, kwargs={"n": 3}) == "hello"


def test_what_templates_do_is_as_before() -> None:
    source = (
        "{% for m in messages %}{% if loop.last %}last of {{ loop.length }}: {% endif %}"
        "{% set text %}<{{ m.content }}>{% endset %}{{ text ~ '|' ~ loop.revindex }}"
        "{% for key, value in {'a': 1, 'b': 2}.items() if value > 1 %}{{ key }}{% else %}none"
        "{% endfor %}{% for x in nothing %}x{% else %}empty{% endfor %}\n"
        "{% endfor %}{{ '%s-%02d' % ('x', 5) }} {{ '%s'|format('y') }} {{ '{:>3}'.format(7) }}"
        "{{ ['a', 'b']|join(', ') }} {{ 'abab'|replace('b', 'cc') }} {{ 2 ** 10 * 3 }}"
        "{{ messages|map(attribute='content')|list|tojson(indent=2) }}"
        "{% set text | upper %}up{% endset %}{{ text }}{% for i in range(9) %}"
        "{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    said = [{"role": "user", "content": word} for word in ("one", "two")]
    assert ChatTemplate(source, {}).render(said) == (
        '<one>|2bemptylast of 2: <two>|1bemptyx-05 y   7a, b accacc 3072[\n  "one",\n  "two"\n]UP01'
    )


def test_a_long_conversation_is_within_the_bounds() -> None:
    source = (
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
        "{{ '<|' ~ m.role ~ '|>' + m.content|trim }}{% for t in tools or [] %}{{ t|tojson }}"
        "{% endfor %}{% endfor %}{{ ns.last }}"
    )
    said = [{"role": "user", "content": "x" * 800}] * 10_000
    assert len(ChatTemplate(source, {}).render(said)) == 10_000 * 808 + 4
