"""The value behind `${…}` is never shown, not even in pieces."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipebus import Bus, ConfigError
from pipebus.config.problems import Problems
from pipebus.config.wording import shown
from pipebus.testing import file_tests

SECRET = "eyJhbGciOiJIUzI1NiJ9." + "".join(f"{n:02}kQ" for n in range(40))
"""As long as a token is."""


def pieces(text: str, secret: str = SECRET) -> list[str]:
    """Parts of the secret that a text tells."""
    return [secret[i : i + 8] for i in range(len(secret) - 7) if secret[i : i + 8] in text]


@pytest.mark.parametrize(
    "toml",
    [
        '[[pipelines]]\nfilters = [{ use = "${env:TOKEN}" }]',
        '[[pipelines]]\nfilters = ["${env:TOKEN}"]',
        '[[subscriptions]]\nname = "a"\nsubject = "a"\nhandler = "${env:TOKEN}"',
        '[bus]\ntransport = "${env:TOKEN}"',
        '[[every]]\ninterval = "${env:TOKEN}"\nsubject = "a"',
        '[[tests]]\nname = "t"\npublish = { subject = "a" }\nexpect = { reason = { matches = "(${env:TOKEN}" } }',
        '[[pipelines]]\nfilters = [{ use = "retry", on = ["${env:TOKEN}"] }]',
    ],
)
def test_of_a_long_secret_no_piece_is_told_by_an_error(toml: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts are cut in errors, and the rest of a secret in such a text is still secret."""
    monkeypatch.setenv("TOKEN", SECRET)
    (tmp_path / "bus.toml").write_text(f"version = 1\n{toml}\n")
    with pytest.raises(ConfigError) as caught:
        Bus.from_config(tmp_path / "bus.toml")
    assert pieces(str(caught.value)) == []
    assert "${env:TOKEN}" in str(caught.value)


TESTS = """
version = 1
[[pipelines]]
filters = [{ use = "set_headers", headers = { token = "${env:TOKEN}" } }]
[[subscriptions]]
name = "s"
subject = "a"
[[tests]]
name = "t"
publish = { subject = "a", json = ["${env:TOKEN}", { deep = "<${env:TOKEN}>" }] }
expect = { received.s = { body = ["x", "y"], headers = { token = "z" } } }
[[tests]]
name = "u"
publish = { subject = "a", json = "x" }
expect = { received.s = { body = "${env:TOKEN}" } }
"""


@pytest.mark.parametrize("secret", [SECRET, "pa${ss}word-long", "four", 'quo"ted\\one'])
def test_no_piece_is_told_by_a_test_that_fails(secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the differences nor the story of a failed test contains a piece."""
    monkeypatch.setenv("TOKEN", secret)
    (tmp_path / "pipebus.toml").write_text(TESTS)
    for test in file_tests(tmp_path / "pipebus.toml"):
        result = test.run()
        assert not result.passed
        told = f"{result}\n{result.story}"
        assert secret not in told
        assert pieces(told, secret) == []
        assert "${env:TOKEN}" in str(result)


def test_what_is_left_of_a_secret_around_a_cut_is_taken_out() -> None:
    """Rests in front of the cut, behind it and in quotes are removed; other words around a cut stay."""
    problems = Problems("bus.toml")
    problems.secrets[SECRET] = "${env:TOKEN}"
    assert problems.redacted(f"found {shown(SECRET)}") == 'found "${env:TOKEN}…"'
    assert problems.redacted(f'"…{SECRET[50:70]}" was found') == '"…${env:TOKEN}" was found'
    assert problems.redacted(f"…{SECRET[9:30]}…") == "…${env:TOKEN}…"
    assert problems.redacted("a long sentence… and no more") == "a long sentence… and no more"
