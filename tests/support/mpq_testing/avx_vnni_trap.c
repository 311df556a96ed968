/* Runs code for AVX-VNNI on x86 CPUs without it: vpdpbusd and vpdpwssd of the VEX form raise SIGILL there, and the
 * handler computes what they would, on the registers and memory of the interrupted thread. Linux, and a CPU with AVX2.
 *
 * trap_begin() installs the handler, trap_end() restores the one before it and returns how many instructions it did.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

static struct sigaction before;
static volatile long done;

static const int GENERAL[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* Places in the frame that the kernel saves: the legacy area, the header behind it, and the registers' upper halves. */
enum { XMM = 160, HEADER = 512, SSE = 2, AVX = 4 };

static unsigned upper_halves(void) {
  unsigned eax, ebx, ecx, edx;
  __cpuid_count(13, 2, eax, ebx, ecx, edx);
  return ebx;
}

static void read_register(const char* area, int number, uint8_t out[32]) {
  uint64_t present;
  memcpy(&present, area + HEADER, 8);
  memset(out, 0, 32);
  if (present & SSE) memcpy(out, area + XMM + 16 * number, 16);
  if (present & AVX) memcpy(out + 16, area + upper_halves() + 16 * number, 16);
}

static void write_register(char* area, int number, const uint8_t value[32]) {
  uint64_t present;
  memcpy(&present, area + HEADER, 8);
  if (!(present & SSE)) memset(area + XMM, 0, 256);
  if (!(present & AVX)) memset(area + upper_halves(), 0, 256);
  present |= SSE | AVX;
  memcpy(area + HEADER, &present, 8);
  memcpy(area + XMM + 16 * number, value, 16);
  memcpy(area + upper_halves() + 16 * number, value + 16, 16);
}

/* The address of a memory operand; *length grows by the bytes behind ModRM. */
static const uint8_t* operand_address(const uint8_t* modrm, int x, int b, const greg_t* general, int* length) {
  int mod = modrm[0] >> 6, rm = modrm[0] & 7, at = 1;
  int64_t address = 0;
  if (rm == 4) {
    int scale = modrm[1] >> 6, index = (modrm[1] >> 3 & 7) | x, base = modrm[1] & 7;
    at = 2;
    if (index != 4) address = general[GENERAL[index]] << scale;
    if (base == 5 && mod == 0) {
      int32_t shift;
      memcpy(&shift, modrm + at, 4);
      at += 4;
      address += shift;
    } else {
      address += general[GENERAL[base | b]];
    }
  } else if (rm == 5 && mod == 0) { /* relative to the next instruction: three bytes of VEX, opcode, these */
    int32_t shift;
    memcpy(&shift, modrm + 1, 4);
    at = 5;
    address = (int64_t)(modrm + at) + shift;
  } else {
    address = general[GENERAL[rm | b]];
  }
  if (mod == 1) {
    address += (int8_t)modrm[at];
    at += 1;
  } else if (mod == 2) {
    int32_t shift;
    memcpy(&shift, modrm + at, 4);
    at += 4;
    address += shift;
  }
  *length += at - 1;
  return (const uint8_t*)address;
}

static int imitate(ucontext_t* context) {
  greg_t* general = context->uc_mcontext.gregs;
  char* area = (char*)context->uc_mcontext.fpregs;
  const uint8_t* code = (const uint8_t*)general[REG_RIP];
  /* VEX.66.0F38.W0 50 /r or 52 /r; R, X and B are stored inverted, and so is the number of the first factor. */
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x83) != 0x01) return 0;
  if (code[3] != 0x50 && code[3] != 0x52) return 0;
  size_t bytes = code[2] & 4 ? 32 : 16;
  int r = code[1] & 0x80 ? 0 : 8, x = code[1] & 0x40 ? 0 : 8, b = code[1] & 0x20 ? 0 : 8;
  int to = (code[4] >> 3 & 7) | r, first = ~code[2] >> 3 & 15, length = 5;
  uint8_t sums[32], u[32], s[32];
  int16_t words[2];
  if (code[4] >> 6 == 3) {
    read_register(area, (code[4] & 7) | b, s);
  } else {
    memcpy(s, operand_address(code + 4, x, b, general, &length), bytes);
  }
  read_register(area, to, sums);
  read_register(area, first, u);
  for (int lane = 0; lane < 8; ++lane) {
    uint32_t sum;
    memcpy(&sum, sums + 4 * lane, 4);
    for (int i = 4 * lane; code[3] == 0x50 && i < 4 * lane + 4; ++i) sum += (uint32_t)((int)u[i] * (int)(int8_t)s[i]);
    for (int i = 4 * lane; code[3] == 0x52 && i < 4 * lane + 4; i += 2) {
      memcpy(words, u + i, 2);
      memcpy(words + 1, s + i, 2);
      sum += (uint32_t)((int)words[0] * (int)words[1]);
    }
    memcpy(sums + 4 * lane, &sum, 4);
  }
  memset(sums + bytes, 0, 32 - bytes);
  write_register(area, to, sums);
  general[REG_RIP] += length;
  return 1;
}

static void on_illegal(int number, siginfo_t* info, void* context) {
  if (imitate(context)) {
    __atomic_add_fetch(&done, 1, __ATOMIC_RELAXED);
  } else {
    sigaction(SIGILL, &before, NULL); /* the instruction is tried again, for whoever was there before */
  }
}

int trap_begin(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_illegal;
  action.sa_flags = SA_SIGINFO;
  done = 0;
  return sigaction(SIGILL, &action, &before);
}

long trap_end(void) {
  sigaction(SIGILL, &before, NULL);
  return done;
}
