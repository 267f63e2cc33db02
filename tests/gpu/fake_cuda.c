/* A stand-in for libcuda and libnvrtc: devices that are memory of the host.
 *
 * It has the calls that gpu_check/driver.py makes, with their types, and does what they say; so the
 * ctypes side is seen working where no GPU is. The environment says what is wrong with it:
 *
 *   FAKE_CUDA_COUNT    devices (1)             FAKE_CUDA_INIT     what cuInit returns (0)
 *   FAKE_CUDA_BREAK    copy, kernel, context, peer, crash or compile: what goes wrong
 *   FAKE_CUDA_ACCESS   whether devices reach each other (1)
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int result;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201 };

static int contexts[16];
static int *current;

static int number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int broken(const char *what)
{
    const char *text = getenv("FAKE_CUDA_BREAK");
    return text && !strcmp(text, what);
}

result cuGetErrorName(result status, const char **name)
{
    *name = status == 100 ? "CUDA_ERROR_NO_DEVICE"
          : status == 802 ? "CUDA_ERROR_SYSTEM_NOT_READY"
          : status == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_ANOTHER_KIND";
    return OK;
}

result cuDriverGetVersion(int *version) { *version = 12040; return OK; }

result cuInit(unsigned flags)
{
    if (broken("crash"))
        abort();
    return flags ? INVALID : number("FAKE_CUDA_INIT", OK);
}

result cuDeviceGetCount(int *count) { *count = number("FAKE_CUDA_COUNT", 1); return OK; }
result cuDeviceGet(int *device, int index) { *device = index; return OK; }

result cuDeviceGetName(char *name, int length, int device)
{
    snprintf(name, length, "NVIDIA Fake %d", device);
    return OK;
}

result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 1ul << 34; return OK; }

result cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : -1;
    return *value < 0 ? INVALID : OK;
}

result cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = &contexts[device];
    return broken("context") ? OUT_OF_MEMORY : OK;
}

result cuCtxSetCurrent(void *context) { current = context; return OK; }
result cuCtxSynchronize(void) { return current ? OK : NO_CONTEXT; }
result cuMemGetInfo_v2(size_t *free, size_t *total) { *free = *total = 1ul << 26; return OK; }

result cuMemAlloc_v2(uint64_t *pointer, size_t size)
{
    *pointer = (uint64_t)malloc(size);
    return current ? OK : NO_CONTEXT;
}

result cuMemFree_v2(uint64_t pointer) { free((void *)pointer); return OK; }
result cuMemAllocHost_v2(void **pointer, size_t size) { *pointer = malloc(size); return OK; }
result cuMemFreeHost(void *pointer) { free(pointer); return OK; }

result cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size)
{
    memcpy((void *)to, from, size);
    if (broken("copy"))
        ((char *)to)[size / 2] ^= 1;
    return OK;
}

result cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
    memcpy(to, (void *)from, size);
    return OK;
}

result cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream)
{
    (void)stream;
    memcpy((void *)to, from, size);
    return OK;
}

result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream)
{
    (void)stream;
    memcpy(to, (void *)from, size);
    return OK;
}

result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void *stream)
{
    return cuMemcpyHtoDAsync_v2(to, (void *)from, size, stream);
}

result cuMemcpyPeerAsync(uint64_t to, void *there, uint64_t from, void *here, size_t size, void *stream)
{
    if (there == here)
        return INVALID;
    return broken("peer") ? OK : cuMemcpyDtoDAsync_v2(to, from, size, stream);
}

result cuDeviceCanAccessPeer(int *can, int device, int peer)
{
    *can = device != peer && number("FAKE_CUDA_ACCESS", 1);
    return OK;
}

result cuCtxEnablePeerAccess(void *peer, unsigned flags)
{
    static char enabled[16][16];
    char *pair = &enabled[current - contexts][(int *)peer - contexts];
    return flags ? INVALID : (*pair)++ ? 704 : OK;
}

/* Every measurement takes ten milliseconds: events have no clock, so that results are known. */
result cuEventCreate(void **event, unsigned flags) { *event = malloc(1); return flags ? INVALID : OK; }
result cuEventRecord(void *event, void *stream) { (void)stream; return event ? OK : INVALID; }
result cuEventSynchronize(void *event) { return event ? OK : INVALID; }
result cuEventElapsedTime(float *ms, void *begin, void *end) { *ms = 10; return begin && end ? OK : INVALID; }
result cuEventDestroy_v2(void *event) { free(event); return OK; }

result cuModuleLoadData(void **module, const void *image)
{
    *module = (void *)image;
    return strcmp(image, "code for sm_90") ? INVALID : OK;
}

result cuModuleGetFunction(void **function, void *module, const char *name)
{
    *function = module;
    return strcmp(name, "check") ? INVALID : OK;
}

result cuModuleUnload(void *module) { return module ? OK : INVALID; }

result cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned tx, unsigned ty,
                      unsigned tz, unsigned shared, void *stream, void **arguments, void **extra)
{
    const uint32_t *in = (void *)*(uint64_t *)arguments[0];
    uint32_t *out = (void *)*(uint64_t *)arguments[1];
    uint32_t count = *(uint32_t *)arguments[2];

    if (!function || y * z * ty * tz != 1 || shared || stream || extra)
        return INVALID;
    for (uint32_t i = 0; i < x * tx && i < count; i++)
        out[i] = in[i] * 2654435761u + i + (broken("kernel") && i == 7);
    return OK;
}

/* --- NVRTC: the same file under another name ----------------------------------------------------- */

static char code[64];

result nvrtcVersion(int *major, int *minor) { *major = 12; *minor = 4; return OK; }
const char *nvrtcGetErrorString(result status) { (void)status; return "NVRTC_ERROR_INVALID_OPTION"; }

result nvrtcCreateProgram(void **program, const char *source, const char *name, int headers,
                          const char **texts, const char **names)
{
    *program = code;
    return source && name && !headers && !texts && !names ? OK : INVALID;
}

result nvrtcCompileProgram(void *program, int count, const char **options)
{
    const char *wanted = "--gpu-architecture=";

    if (program != code || count != 1 || strncmp(options[0], wanted, strlen(wanted)))
        return INVALID;
    snprintf(code, sizeof(code), "code for %s", options[0] + strlen(wanted));
    return broken("compile") ? 5 : OK;
}

result nvrtcGetCUBINSize(void *program, size_t *size) { *size = strlen(program) + 1; return OK; }
result nvrtcGetCUBIN(void *program, char *image) { strcpy(image, program); return OK; }
result nvrtcDestroyProgram(void **program) { *program = NULL; return OK; }
