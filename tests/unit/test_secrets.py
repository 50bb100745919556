"""What is secret is written nowhere; what is not stays as it is."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from gluonexp.base.errors import GluonexpError
from gluonexp.base.secrets import hidden, hidden_diff, hidden_words, hide, is_secret
from gluonexp.config import hydra_private, recorded
from gluonexp.run import again, composition
from gluonexp.tracking.uri import displayed
from gluonexp.tracking.values import flatten, tag_text


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db.password", "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "hf_token", "apiKey"),
        *("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN", "client-secret", "private_key2"),
    ],
)
def test_a_name_says_that_its_value_is_secret(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "tokenizer", "key", "sort_key", "password_file", "PWD", "second_pass", "seed"],
)
def test_a_name_like_it_does_not(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "tracking.uri=postgresql://user:secret@host/db dataset.root=/a@b x=http://host/",
            "tracking.uri=postgresql://***@host/db dataset.root=/a@b x=http://host/",
        ),
        ("postgresql://user:a/b@c@host/db", "postgresql://***@host/db"),
        ("http://host:5000/#/models/m@champion", "http://host:5000/#/models/m@champion"),
        ("http://host/x?token=abc&y=1", "http://host/x?token=***&y=1"),
        ("https://s3/x?X-Amz-Signature=abc&y=1", "https://s3/x?X-Amz-Signature=***&y=1"),
        ("AccountName=a;AccountKey=abc==;B=1", "AccountName=a;AccountKey=***;B=1"),
        ("{user: me, password: abc, n: 1}", "{user: me, password: ***, n: 1}"),
        ("{'api_key': 'a b', 'n': 1}", "{'api_key': '***', 'n': 1}"),
        ("Authorization: Bearer abcdefgh.ij", "Authorization: Bearer ***"),
        ("it is hf_" + "a1" * 17, "it is ***"),
        ("password=${oc.env:SECRET} token=null", "password=${oc.env:SECRET} token=null"),
        ("unexpected token: the file ends", "unexpected token: the file ends"),
    ],
)
def test_secrets_in_a_text_are_hidden(text, shown):
    assert hide(text) == shown == hide(shown)


def test_the_secrets_of_the_environment_are_found_under_any_name(monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", "correct/horse")
    monkeypatch.setenv("SHORT_TOKEN", "run")
    text = "run: correct/horse, correct%2Fhorse, incorrect/horse"
    assert hide(text) == "run: ***, ***, incorrect/horse"
    assert flatten({"source": {"header": "X correct/horse"}}) == {"source.header": "X ***"}
    assert tag_text("failed at correct/horse") == "failed at ***"


def test_in_a_configuration_the_key_decides():
    config = {
        "db": {"password": 1234, "user": "me", "token": None, "max_tokens": 5},
        "secrets": {"a": "x", "b": ["y"]},
        "words": ["db.password=a,b c", "seed=1"],
    }
    assert hidden(config) == {
        "db": {"password": "***", "user": "me", "token": None, "max_tokens": 5},
        "secrets": {"a": "***", "b": ["***"]},
        "words": ["db.password=***", "seed=1"],
    }


def test_nothing_of_the_default_configuration_is_hidden():
    plain = OmegaConf.to_container(composition([]), resolve=False)
    assert hidden(plain) == plain


def test_words_of_a_command_line_are_hidden():
    words = ["run", "--token", "abc", "--hf-token=abc", "+db.password=[a, b]", "seed=1"]
    shown = ["run", "--token", "***", "--hf-token=***", "+db.password=***", "seed=1"]
    assert hidden_words(words) == shown


def test_in_a_diff_code_keeps_its_words():
    code = """diff --git a/train.py b/train.py
+PASSWORD = "abc"
+password: str | None = 'a b'
+os.environ["API_TOKEN"] = "abc"
+def f(token=token, password=None): token = read(token)
+if token == "x":
"""
    settings = """diff --git a/.env b/.env
+DB_PASS=abc
+MAX_TOKENS=4
diff --git a/conf/db.yaml b/conf/db.yaml
 user: me
-password: correct horse
+token: "abc"
+-----BEGIN RSA PRIVATE KEY-----
+MIIEabcd1234
+abcd==
+-----END RSA PRIVATE KEY-----
"""
    assert hidden_diff(code) == code.replace('"abc"', '"***"').replace("'a b'", "'***'")
    shown = settings.replace("=abc\n", "=***\n").replace("correct horse", "***")
    shown = shown.replace('"abc"', '"***"').replace("\n+MIIEabcd1234\n+abcd==", "***")
    assert hidden_diff(settings) == shown


def test_a_store_is_named_with_its_user_only():
    assert displayed("postgresql://me:a@b@host/runs") == "postgresql://me:***@host/runs"
    assert displayed("postgresql://me:a/b@host/runs") == "postgresql://***@host/runs"


def test_what_another_launcher_let_hydra_write_is_hidden(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("db:\n  password: abc\n  host: ${oc.env:HOST}\n")
    hydra_private.hide_saved(tmp_path)
    assert file.read_text() == "db:\n  password: '***'\n  host: ${oc.env:HOST}\n"


def test_a_configuration_is_not_made_of_hidden_values():
    composed = composition([])
    before = OmegaConf.to_container(composed, resolve=True)
    before["dataset"]["source"]["title"] = "postgresql://***@host/images"
    with pytest.raises(GluonexpError, match=r"dataset\.source\.title is a secret.* type it again"):
        recorded.with_typed(before, composed, [], [])
    words = ["dataset.source.title=digits"]
    with_words = recorded.with_typed(before, composition([f"+{words[0]}"]), words, [])
    assert with_words.dataset.source.title == "digits"


def test_a_sweep_is_not_started_again_with_hidden_values(monkeypatch):
    kept = ["+dataset.source.token=***", "seed=1,2"]
    monkeypatch.setattr("gluonexp.tracking.sweeps.arguments_of", lambda *_: kept)
    monkeypatch.setattr(
        "gluonexp.tracking.read.runs.reader", lambda _: SimpleNamespace(uri="", parent=str)
    )
    with pytest.raises(GluonexpError, match=r"dataset\.source\.token is a secret"):
        again(["sweep.resume=last"])
    words = ["sweep.resume=last", "+dataset.source.token=x"]
    assert again(words) == [words[1], "seed=1,2", words[0]]
