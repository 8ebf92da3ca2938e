"""The `grail` command in this process, and an API on a real socket for it to talk to."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import uvicorn
from safetensors.numpy import save_file

from app.config import Settings
from app.main import create_app
from cli.main import main
from tests.fixtures.served import SHAPE, write_base

LINEAR = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Grail = Callable[..., Ran]


@pytest.fixture
def grail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Grail:
    """Runs a command; fails unless it ends with the exit code `expect`."""

    def run(*arguments: object, expect: int = 0) -> Ran:
        monkeypatch.setattr(sys, "argv", ["grail", *(str(argument) for argument in arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (ended.value.code or 0) == expect, said.out + said.err
        return Ran(said.out, said.err)

    return run


@pytest.fixture
def people(grail: Grail, model_files: tuple[Path, Path]) -> str:
    """A served model of that name."""
    base, adapter = model_files
    grail("models", "add", "people", "--base", base, "--adapter", adapter, "--template", "Q: {prompt} A:")
    return "people"


@pytest.fixture
def url(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An API of its own on a port of its own, named by GRAIL_URL: connections that count belong to one loop."""
    api = create_app(settings)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv("GRAIL_URL", address)
        yield address
        server.should_exit = True
        thread.join()


@pytest.fixture
def model_files(tmp_path: Path) -> tuple[Path, Path]:
    """(base model, adapter) directories with weights of the right shapes, of a model that nobody computes with."""
    base, adapter = write_base(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    (base / "config.json").write_text(json.dumps({**SHAPE, "max_position_embeddings": 64}))
    save_file({f"{LINEAR}.weight": numpy.ones((8, 8), numpy.float32)}, base / "model.safetensors")
    pair = {"lora_A": numpy.ones((2, 8), numpy.float32), "lora_B": numpy.ones((8, 2), numpy.float32)}
    named = {f"base_model.model.{LINEAR}.{side}.weight": tensor for side, tensor in pair.items()}
    save_file(named, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return base, adapter
