"""What torch says about itself and computes; run by its environment's own interpreter, prints JSON.

One process answers all of it: in a machine without hardware virtualisation the import alone takes
most of a minute. Numbers are multiples of powers of two, so results are exact.
"""

import ctypes
import json
import re
from pathlib import Path

import numpy as np
import torch

ROWS = [[1.0, 2.0], [3.0, 4.0]]
WANTED = [[1.0], [2.0]]
RATE = 0.125
ORDER = 32
# NVIDIA's libraries, but libcuda, which is the driver's; and libcurl is nobody's here.
NVIDIA = re.compile(r"/lib(cu(?!da\.|rl\.)|nccl|nv)[^/]*$")


def trained():
    """Weights and loss after one step of gradient descent from nothing."""
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    rows, wanted = torch.tensor(ROWS), torch.tensor(WANTED)
    loss = torch.nn.functional.mse_loss(model(rows), wanted)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        after = torch.nn.functional.mse_loss(model(rows), wanted)
    return {"weights": model.weight.tolist(), "losses": [loss.item(), after.item()]}


def residual():
    matrix = torch.from_numpy(np.random.default_rng(1).standard_normal((ORDER, ORDER)))
    solved = torch.linalg.solve(matrix, matrix @ torch.ones(ORDER, dtype=torch.float64))
    return float(abs(solved.numpy() - 1).max())


def convolved():
    ones = torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3))
    return ones.tolist()


def nccl():
    """The version of the library that is loaded; torch itself tells that of the header."""
    number = ctypes.c_int()
    if ctypes.CDLL("libnccl.so.2").ncclGetVersion(ctypes.byref(number)):
        raise OSError("ncclGetVersion failed")
    return number.value


def loaded():
    """The files of NVIDIA's libraries in this process, wherever they were found."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line[line.index("/") :] for line in lines if "/" in line}
    return sorted(path for path in paths if NVIDIA.search(path))


ASKED = {
    # Not torch.cuda.get_arch_list(), which is empty where there is no GPU.
    "architectures": lambda: torch._C._cuda_getArchFlags().split(),  # noqa: SLF001
    "convolved": convolved,
    "cuda": lambda: torch.version.cuda,
    "cudnn": torch.backends.cudnn.version,
    "loaded": loaded,
    "nccl": nccl,
    "residual": residual,
    "trained": trained,
    "versions": lambda: {"numpy": np.__version__, "torch": torch.__version__},
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
