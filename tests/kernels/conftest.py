"""Where there is no GPU, Triton's kernels are tested in its interpreter, which must be chosen before Triton loads."""

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Memory that is handed out holds NaN, so a kernel that leaves an element unwritten shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full_chunks: CIF's Triton kernels keep the chunks that they have on a GPU")


@pytest.fixture(autouse=True)
def short_chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter scans a chunk frame by frame: most of 2048 would be padding, and nothing depends on it."""
    if torch.cuda.is_available() or request.node.get_closest_marker("full_chunks"):
        return
    if importlib.util.find_spec("triton") is not None:
        from speechllm_kernels.cif import triton_backward, triton_scan

        for module in (triton_scan, triton_backward):
            monkeypatch.setattr(module, "CHUNK", 64)
