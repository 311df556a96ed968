/* Runs compiled kernels without TVM: the few functions they call are here.
 *
 *     kernel_runner library.so job.txt data.bin
 *
 * job.txt, one kernel after the other:   kernel NAME COUNT, then COUNT lines   CODE BITS OFFSET BYTES NDIM DIM...
 * data.bin holds all arrays at their offsets; afterwards it holds what the kernels made of them. Each array is given to
 * the kernel in memory of its own, aligned as TVM aligns, between guard bytes that must not change.
 */
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, GUARD = 256, MAX_ARGS = 16, MAX_DIMS = 8, TASKS = 2, DL_TENSOR = 7, CPU = 1 };

typedef struct { /* DLPack */
  void* data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor;

typedef struct { /* tvm_ffi's value */
  int32_t type_index;
  uint32_t padding;
  union {
    int64_t integer; /* eight bytes, also where pointers have four */
    void* pointer;
  };
} Value;

typedef int (*Kernel)(void* self, const Value* args, int32_t count, Value* result);

typedef struct {
  void* sync_handle;
  int32_t num_task;
} Group;

static void stop(const char* what, const char* which) {
  fprintf(stderr, "%s %s\n", what, which);
  exit(1);
}

static void* alloc_workspace(int type, int id, uint64_t bytes, int code, int bits) {
  return aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

static int free_workspace(int type, int id, void* pointer) {
  free(pointer);
  return 0;
}

static int launch(int (*body)(int, Group*, void*), void* data, int tasks) {
  Group group = {NULL, tasks ? tasks : TASKS};
  for (int task = 0; task < group.num_task; ++task) {
    if (body(task, &group, data)) return -1;
  }
  return 0;
}

static int barrier(int task, Group* group) { return 0; }

void TVMFFIErrorSetRaisedFromCStr(const char* kind, const char* message) { stop(kind, message); }

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  for (int32_t i = 0; i < count; ++i) fprintf(stderr, "%s", parts[i] ? parts[i] : "");
  stop("", kind);
}

static void offer(void* library, const char* name, void* function) {
  void** slot = dlsym(library, name);
  if (slot) *slot = function;
}

static char* guarded(const char* source, size_t bytes) {
  size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  char* memory = aligned_alloc(ALIGNMENT, rounded + 2 * GUARD);
  memset(memory, 0xA5, rounded + 2 * GUARD);
  memcpy(memory + GUARD, source, bytes);
  return memory + GUARD;
}

static int is_intact(const char* data, size_t bytes) {
  for (size_t i = 0; i < GUARD; ++i) {
    if ((unsigned char)data[-1 - (ptrdiff_t)i] != 0xA5 || (unsigned char)data[bytes + i] != 0xA5) return 0;
  }
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 4) stop("usage: kernel_runner", "LIBRARY JOB DATA");
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) stop("cannot load", dlerror());
  offer(library, "__TVMBackendAllocWorkspace", alloc_workspace);
  offer(library, "__TVMBackendFreeWorkspace", free_workspace);
  offer(library, "__TVMBackendParallelLaunch", launch);
  offer(library, "__TVMBackendParallelBarrier", barrier);
  offer(library, "__TVMFFIErrorSetRaisedFromCStr", TVMFFIErrorSetRaisedFromCStr);

  FILE* file = fopen(argv[3], "r+b");
  if (!file) stop("cannot open", argv[3]);
  fseek(file, 0, SEEK_END);
  size_t total = (size_t)ftell(file);
  char* blob = malloc(total ? total : 1);
  rewind(file);
  if (fread(blob, 1, total, file) != total) stop("cannot read", argv[3]);

  FILE* job = fopen(argv[2], "r");
  if (!job) stop("cannot open", argv[2]);
  char name[256], symbol[300];
  int count;
  while (fscanf(job, " kernel %255s %d", name, &count) == 2) {
    Tensor tensors[MAX_ARGS];
    Value values[MAX_ARGS], result = {0, 0, {0}};
    int64_t dims[MAX_ARGS][2][MAX_DIMS];
    size_t offsets[MAX_ARGS], sizes[MAX_ARGS];
    if (count > MAX_ARGS) stop("too many arguments of", name);
    for (int i = 0; i < count; ++i) {
      Tensor* t = &tensors[i];
      int code, bits, ndim;
      if (fscanf(job, "%d %d %zu %zu %d", &code, &bits, &offsets[i], &sizes[i], &ndim) != 5) stop("bad job of", name);
      if (ndim > MAX_DIMS || offsets[i] + sizes[i] > total) stop("bad array of", name);
      for (int d = 0; d < ndim; ++d) {
        long long extent;
        if (fscanf(job, "%lld", &extent) != 1) stop("bad shape of", name);
        dims[i][0][d] = extent;
      }
      int64_t stride = 1;
      for (int d = ndim - 1; d >= 0; --d) {
        dims[i][1][d] = stride;
        stride *= dims[i][0][d];
      }
      *t = (Tensor){guarded(blob + offsets[i], sizes[i]), CPU, 0, ndim, (uint8_t)code, (uint8_t)bits, 1,
                    dims[i][0], dims[i][1], 0};
      values[i] = (Value){DL_TENSOR, 0, {0}};
      values[i].pointer = t;
    }
    snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", name);
    Kernel kernel = (Kernel)dlsym(library, symbol);
    if (!kernel) stop("no function", symbol);
    if (kernel(NULL, values, count, &result)) stop("refused its arguments:", name);
    for (int i = 0; i < count; ++i) {
      if (!is_intact(tensors[i].data, sizes[i])) stop("wrote outside an array:", name);
      memcpy(blob + offsets[i], tensors[i].data, sizes[i]);
      free((char*)tensors[i].data - GUARD);
    }
  }
  rewind(file);
  if (fwrite(blob, 1, total, file) != total || fclose(file)) stop("cannot write", argv[3]);
  return 0;
}
