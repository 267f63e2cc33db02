"""What a program that uses CUDA would do first, with the real libraries and no GPU; prints JSON.

Arguments: the runtime's library and the compiler's, as the loader knows them, "" for one that an
image does not have; and the architectures to compile for, beside those of every image.
"""

import ctypes
import json
import re
import sys
from pathlib import Path

ARCHITECTURES = {75, 80, 86, 89, 90, 120, *map(int, sys.argv[3:])}
MAPS = Path("/proc/self/maps")
SOURCE = b'extern "C" __global__ void scale(float *x, float by) { x[threadIdx.x] *= by; }'


def version(library, function):
    number = ctypes.c_int()
    status = library[function](ctypes.byref(number))
    return {"status": status, "version": number.value}


def version_of_file(name):
    """Return the CUDA that the name of a loaded library's file tells: 11080 for libx.so.11.8.89."""
    lines = MAPS.read_text().splitlines()
    path = next(line.split()[-1] for line in lines if name in line)
    major, minor = re.search(r"\.so\.(\d+)\.(\d+)", Path(path).resolve().name).groups()
    return int(major) * 1000 + int(minor) * 10


def runtime(cudart):
    return version(cudart, "cudaRuntimeGetVersion") | {"file": version_of_file("libcudart")}


def cubin(nvrtc, program):
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, buffer)
    return buffer.raw


def compiled(nvrtc, architecture):
    """Compile the kernel for an architecture, and look whether the result is machine code of it."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE, b"scale.cu", 0, None, None)
    options = (ctypes.c_char_p * 1)(b"--gpu-architecture=sm_%d" % architecture)
    status = nvrtc.nvrtcCompileProgram(program, 1, options)
    code = b"" if status else cubin(nvrtc, program)
    return {"status": status, "elf": code.startswith(b"\x7fELF"), "named": b"scale" in code}


cuda = ctypes.CDLL("libcuda.so.1")
cudart, nvrtc = (ctypes.CDLL(name) if name else None for name in sys.argv[1:3])
said = {
    "driver": version(cuda, "cuDriverGetVersion"),
    "init": cuda.cuInit(0),
    "runtime": runtime(cudart) if cudart else None,
    "compiled": {name: compiled(nvrtc, name) for name in sorted(ARCHITECTURES)} if nvrtc else {},
}
print(json.dumps(said))  # noqa: T201 - its result
