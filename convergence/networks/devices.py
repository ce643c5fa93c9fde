"""Choice of the device, and reproducible arithmetic."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

from convergence.errors import ConfigError
from convergence.networks.work import MOST_THREADS, Threads, use_threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt in glibc's malloc.h."""
KEPT_BYTES = 1 << 30


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is CUDA if available, else the CPU.

    Raises
    ------
    ConfigError
        for an unknown or missing device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'device "{name}" is unknown: use "auto", "cpu", "cuda" or "cuda:1".') from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f'device "{name}" is missing: {torch.cuda.device_count()} CUDA devices were found. Use "auto" or "cpu".'
        )
    return device


def devices_of_process(name: str, local_rank: int = 0, local_size: int = 1) -> list[torch.device]:
    """Return the devices of one of the processes of a machine.

    With ``auto`` and ``cuda`` the processes divide the visible GPUs among them; with fewer GPUs than processes, several
    processes share one. Other names are the one device of that name.

    Raises
    ------
    ConfigError
        for an unknown or missing device.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name not in ("auto", "cuda") or not n_gpus:
        return [choose_device(name)]
    own = range(local_rank, n_gpus, local_size) if n_gpus >= local_size else [local_rank % n_gpus]
    return [torch.device("cuda", index) for index in own]


def keep_freed_memory() -> None:
    """Let the C library keep up to 1 GiB of freed memory of this process for the next batch, where it is glibc.

    A batch needs the outputs of all layers at once. By default glibc returns their memory to the system after the
    batch, and every page is cleared again for the next one: a tenth of the time of a forward pass. Arrays of more than
    32 MiB are returned as before. It is a setting of the whole process (mallopt(3)), for processes of the toolkit.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)


def reproducible_arithmetic(threads: Threads) -> None:
    """Set the number of CPU threads, deterministic kernels, and IEEE float32 (no TF32 in products or convolutions).

    An operation without a deterministic kernel warns. Call this before the first use of CUDA. The number of threads
    ``"auto"`` is chosen net by net later (:func:`~convergence.networks.work.threads_for`).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required for deterministic cuBLAS
    use_threads(MOST_THREADS if threads == "auto" else threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms would import the compiler: two seconds
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
