"""A notebook's user is asked in the notebook."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import pytest


def test_a_password_is_asked_for_in_the_notebook(far: Path, tmp_path: Path) -> None:
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    (tmp_path / "home").mkdir()
    kernel, client = manager.start_new_kernel(kernel_name="python3")
    try:
        code = f"""
from clusterjob.transport import Connections
open_transport = Connections().open
print(open_transport("password@lab-plain", "ssh", "{far}/config").run("id -un").stdout)
"""
        request = client.execute(code, allow_stdin=True)
        asked = client.get_stdin_msg(timeout=60)
        assert asked["content"]["password"] is True
        assert "Password of password" in asked["content"]["prompt"]
        client.input("let me in")
        assert "password" in said(client, request)
        refused = client.execute(
            f"open_transport('password@lab-plain:2205', 'ssh', '{far}/config').run('true')",
            allow_stdin=False,
        )
        text = said(client, refused)
        assert "LoginError" in text
        assert "nobody to answer" in text
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def said(client: object, request: str) -> str:
    """Return what a cell printed, or its error."""
    text, deadline = "", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=5)  # type: ignore[attr-defined]
        except queue.Empty:
            continue
        if message["parent_header"].get("msg_id") != request:
            continue
        content = message["content"]
        text += (
            content.get("text", "")
            + content.get("ename", "")
            + content.get("evalue", "")
        )
        if content.get("execution_state") == "idle":
            return text
    raise AssertionError(f"no end: {text}")
