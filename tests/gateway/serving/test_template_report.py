"""`formgate template`: what it says, and when its exit code is 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formgate import embedded
from formgate.gateway import cli

TAGGED = """\
{%- for message in messages -%}
<|turn|>{{ message.role }}
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
<do what="{{ call.function.name }}">
{%- for key, value in call.function.arguments.items() -%}
<with name="{{ key }}">{{ value if value is string else value | tojson }}</with>
{%- endfor -%}
</do>
{%- endfor -%}
<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|turn|>assistant
{% endif -%}"""
SILENT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def report_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(template: str, *flags: str) -> tuple[int, str]:
        path = tmp_path / "chat.jinja"
        path.write_text(template)
        code = cli.main(["template", str(path), *flags])
        return code, capsys.readouterr().out

    return run


def test_a_derived_format_is_said_in_words_and_in_an_example(report_of) -> None:  # type: ignore[no-untyped-def]
    code, text = report_of(TAGGED)
    assert code == 0
    assert text.startswith("format:    derived (derived)\n")
    assert "no known format writes calls as the template does" in text
    assert "marker: '<do'" in text
    assert """'<with name="' KEY '">' VALUE '</with>'""" in text
    assert '<do what="get_weather"><with name="city">Rome</with>' in text
    assert "two calls: ok" in text


def test_as_json_it_has_each_check(report_of) -> None:  # type: ignore[no-untyped-def]
    code, text = report_of(TAGGED, "--json")
    report = json.loads(text)
    assert code == 0
    assert report["calls_come_back"] is report["writes_the_same"] is True
    assert report["chosen"] == "derived"
    assert {each["outcome"] for each in report["checks"]} == {"ok"}
    assert "odd texts" in {each["check"] for each in report["checks"]}


def test_a_template_that_shows_no_calls_is_generic_and_not_0(report_of) -> None:  # type: ignore[no-untyped-def]
    code, text = report_of(SILENT)
    assert code == 1
    assert text.startswith("format:    generic (generic)\n")
    assert "the template leaves calls out" in text


def test_a_models_folder_is_judged_with_its_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["template", str(embedded.path()), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (report["format"], report["chosen"]) == ("mistral", "known")
    assert report["special_tokens"] == "of the tokenizer"


@pytest.mark.parametrize("template", ["{% for %}", "{{ unclosed"])
def test_an_invalid_template_is_one_line(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(template)
    assert cli.main(["template", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("formgate: error: the chat template is not valid Jinja")
    assert said.count("\n") == 1


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["template", "/no/such/model"]) == 2
    assert capsys.readouterr().err == (
        "formgate: error: /no/such/model is neither a folder nor a GGUF file.\n"
    )
