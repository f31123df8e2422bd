"""What training runs say of the machine."""

import platform

import pytest
from tensorflow.python.util import _pywrap_util_port

from trainers.runs import running


@pytest.fixture
def without_onednn(monkeypatch):
    """As on an x86 CPU without AVX-512."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert isinstance(_pywrap_util_port.IsMklEnabled(), bool)
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: False)
    assert "TF_ENABLE_ONEDNN_OPTS=1" in running.advice_on_speed(16)


def on_arm(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")


def chosen_by_the_user(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")


def with_onednn(monkeypatch):
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: True)


def on_a_gpu(monkeypatch):
    monkeypatch.setattr(running, "on_accelerator", lambda: True)


@pytest.mark.parametrize("where", [on_arm, chosen_by_the_user, with_onednn, on_a_gpu])
@pytest.mark.usefixtures("without_onednn")
def test_onednn_is_advised_only_where_it_would_help(where, monkeypatch):
    assert running.advice_on_speed(15) is None
    where(monkeypatch)
    assert running.advice_on_speed(64) is None
