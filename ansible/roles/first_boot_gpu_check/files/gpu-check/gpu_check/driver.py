"""CUDA's driver API and NVRTC through ctypes: libcuda and libnvrtc are all that is needed."""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import contextlib
import ctypes
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NVRTC_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so")
_THREADS = 256
_ALREADY_ENABLED = 704  # CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED


class CudaError(Exception):
    """A call failed; the text names the call, the number and CUDA's name for it."""

    def __init__(self, call: str, status: int, name: str) -> None:
        super().__init__(f"{call} returned {status} ({name})")
        self.status = status


class Driver:
    """The calls of libcuda that are used here; each raises :class:`CudaError`."""

    def __init__(self, name: str = "libcuda.so.1") -> None:
        """Load the library; raises OSError where there is none."""
        self._cuda = ctypes.CDLL(name)

    def __call__(self, call: str, *arguments: Any) -> None:
        """Call a function that returns a CUresult."""
        status = getattr(self._cuda, call)(*arguments)
        if status:
            name = c_char_p()
            self._cuda.cuGetErrorName(status, byref(name))
            raise CudaError(call, status, (name.value or b"unknown").decode())

    def version(self) -> int:
        """Return the CUDA version of the driver as a number: 12040 is 12.4."""
        version = c_int()
        self("cuDriverGetVersion", byref(version))
        return version.value

    def start(self) -> None:
        """Initialise the driver API."""
        self("cuInit", 0)

    def count(self) -> int:
        """Return how many devices there are."""
        count = c_int()
        self("cuDeviceGetCount", byref(count))
        return count.value

    def device(self, index: int) -> dict[str, Any]:
        """Return name, compute capability and memory of a device."""
        device, memory, name = c_int(), c_size_t(), ctypes.create_string_buffer(256)
        self("cuDeviceGet", byref(device), index)
        self("cuDeviceGetName", name, len(name), device)
        self("cuDeviceTotalMem_v2", byref(memory), device)
        values = [c_int(), c_int()]
        for value, attribute in zip(values, CAPABILITY):
            self("cuDeviceGetAttribute", byref(value), attribute, device)
        capability = [value.value for value in values]
        text = name.value.decode(errors="replace")
        return {"index": index, "name": text, "capability": capability, "memory": memory.value}

    def context(self, index: int) -> c_void_p:
        """Make the device's primary context, and work in it from now on."""
        context = c_void_p()
        self("cuDevicePrimaryCtxRetain", byref(context), index)
        self.enter(context)
        return context

    def enter(self, context: c_void_p) -> None:
        """Work in a context."""
        self("cuCtxSetCurrent", context)

    def free_memory(self) -> int:
        """Return how many bytes are free on the device of the context."""
        free, total = c_size_t(), c_size_t()
        self("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value

    @contextlib.contextmanager
    def memory(self, size: int) -> Iterator[c_uint64]:
        """Yield memory on the device of the context."""
        pointer = c_uint64()
        self("cuMemAlloc_v2", byref(pointer), c_size_t(size))
        try:
            yield pointer
        finally:
            self("cuMemFree_v2", pointer)

    @contextlib.contextmanager
    def pinned(self, size: int) -> Iterator[c_void_p]:
        """Yield memory of the host that a device copies from and to at full speed."""
        pointer = c_void_p()
        self("cuMemAllocHost_v2", byref(pointer), c_size_t(size))
        try:
            yield pointer
        finally:
            self("cuMemFreeHost", pointer)

    def put(self, pointer: c_uint64, content: bytes) -> None:
        """Copy bytes to the device."""
        self("cuMemcpyHtoD_v2", pointer, content, c_size_t(len(content)))

    def get(self, pointer: c_uint64, size: int) -> bytes:
        """Copy bytes from the device."""
        buffer = ctypes.create_string_buffer(size)
        self("cuMemcpyDtoH_v2", buffer, pointer, c_size_t(size))
        return buffer.raw

    def launch(self, image: bytes, name: str, arguments: Sequence[Any], count: int) -> None:
        """Load compiled code, run ``count`` threads of one of its kernels, wait for their end."""
        module, function = c_void_p(), c_void_p()
        self("cuModuleLoadData", byref(module), image)
        self("cuModuleGetFunction", byref(function), module, name.encode())
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(one) for one in arguments))
        blocks = (count + _THREADS - 1) // _THREADS
        self("cuLaunchKernel", function, blocks, 1, 1, _THREADS, 1, 1, 0, None, pointers, None)
        self("cuCtxSynchronize")
        self("cuModuleUnload", module)

    def milliseconds(self, call: str, *arguments: Any, times: int) -> float:
        """Return how long it takes to do an asynchronous call so many times, by the device."""
        begin, end, took = c_void_p(), c_void_p(), c_float()
        for event in (begin, end):
            self("cuEventCreate", byref(event), 0)
        self(call, *arguments)  # the first one warms up
        self("cuEventRecord", begin, None)
        for _ in range(times):
            self(call, *arguments)
        self("cuEventRecord", end, None)
        self("cuEventSynchronize", end)
        self("cuEventElapsedTime", byref(took), begin, end)
        for event in (begin, end):
            self("cuEventDestroy_v2", event)
        return took.value

    def can_access(self, device: int, peer: int) -> bool:
        """Whether a device can reach the memory of another one by itself."""
        can = c_int()
        self("cuDeviceCanAccessPeer", byref(can), device, peer)
        return bool(can.value)

    def allow_access(self, peer: c_void_p) -> None:
        """Let the context reach the memory of another one."""
        try:
            self("cuCtxEnablePeerAccess", peer, 0)
        except CudaError as error:
            if error.status != _ALREADY_ENABLED:
                raise


class Compiler:
    """NVRTC, which compiles CUDA C++ at run time."""

    def __init__(self, names: Sequence[str]) -> None:
        """Load the first library that is there; raises OSError where there is none."""
        for name in names:
            with contextlib.suppress(OSError):
                self._nvrtc = ctypes.CDLL(name)
                self.name = name
                return
        raise OSError(f"none of {', '.join(NVRTC_NAMES)} is here")

    def __str__(self) -> str:
        major, minor = c_int(), c_int()
        self._nvrtc.nvrtcVersion(byref(major), byref(minor))
        return f"NVRTC {major.value}.{minor.value}"

    def compile(self, source: str, architecture: str) -> bytes:
        """Return machine code for an architecture such as ``sm_90``."""
        program, option = c_void_p(), f"--gpu-architecture={architecture}".encode()
        text = (source.encode(), b"check.cu", 0, None, None)
        self._call("nvrtcCreateProgram", byref(program), *text)
        self._call("nvrtcCompileProgram", program, 1, (c_char_p * 1)(option))
        size = c_size_t()
        self._call("nvrtcGetCUBINSize", program, byref(size))
        image = ctypes.create_string_buffer(size.value)
        self._call("nvrtcGetCUBIN", program, image)
        self._call("nvrtcDestroyProgram", byref(program))
        return image.raw

    def _call(self, call: str, *arguments: Any) -> None:
        status = getattr(self._nvrtc, call)(*arguments)
        if status:
            self._nvrtc.nvrtcGetErrorString.restype = c_char_p
            name = self._nvrtc.nvrtcGetErrorString(status) or b"unknown"
            raise CudaError(call, status, name.decode())
