/* The multiply-accumulate loop of all convolutions for DSP cores; contract in cg_dsp.h. */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

#if defined(__ARM_FEATURE_MVE) && !defined(CG_DSP_NO_ASM)
#include <arm_mve.h>

/*
 * Helium: four pairs at a time, de-interleaved by VLD2 and VLD4 to a vector per row of a and column
 * of b, in 14 instructions.
 */
static inline __attribute__((always_inline)) void mac(const uint32_t *a, const uint32_t *b,
                                                      uint32_t pairs, uint32_t positions,
                                                      int32_t *sums, int rewind) {
    const uint32_t *const from = b;
    for (; positions != 0; positions--, sums += 8) {
        int32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
        uint32_t left = pairs;
        b = rewind ? from : b;
        for (; left >= 4; left -= 4, a += 8, b += 16) {
            const uint32x4x2_t x = vld2q_u32(a);
            const uint32x4x4_t y = vld4q_u32(b);
#define DOT(sum, i, j)                                                                             \
    sum = vmladavaq_s16(sum, vreinterpretq_s16_u32(x.val[i]), vreinterpretq_s16_u32(y.val[j]))
            DOT(s0, 0, 0);
            DOT(s1, 0, 1);
            DOT(s2, 0, 2);
            DOT(s3, 0, 3);
            DOT(s4, 1, 0);
            DOT(s5, 1, 1);
            DOT(s6, 1, 2);
            DOT(s7, 1, 3);
#undef DOT
        }
        for (; left != 0; left--, a += 2, b += 4) {
#define DOT(sum, i, j) sum = __smlad((int16x2_t)a[i], (int16x2_t)b[j], sum)
            DOT(s0, 0, 0);
            DOT(s1, 0, 1);
            DOT(s2, 0, 2);
            DOT(s3, 0, 3);
            DOT(s4, 1, 0);
            DOT(s5, 1, 1);
            DOT(s6, 1, 2);
            DOT(s7, 1, 3);
#undef DOT
        }
        sums[0] = s0;
        sums[1] = s1;
        sums[2] = s2;
        sums[3] = s3;
        sums[4] = s4;
        sums[5] = s5;
        sums[6] = s6;
        sums[7] = s7;
    }
}

void cg_dsp_mac(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                int32_t *sums) {
    mac(a, b, pairs, positions, sums, 0);
}

void cg_dsp_mac_rewind(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                       int32_t *sums) {
    mac(a, b, pairs, positions, sums, 1);
}

#elif defined(CG_DSP_ASM)

/* C99 promises string literals of 4095 characters only; GCC and Clang take longer ones. */
#pragma GCC diagnostic ignored "-Woverlength-strings"

/*
 * Assembly, because the block of 2 x 4 sums needs all 14 registers and GCC spills: 8 sums (r2-r9),
 * two pointers (r0, r1), two words each of a (r10, r11) and b (r12, lr). What else there is lives
 * on the stack.
 *
 * On Cortex-M4 a load takes two cycles, and one directly behind another whose result it does not
 * need: 16 cycles for 16 multiply-accumulates, of which the multiplications are 8. That is the
 * bound: six words are loaded for 8 SMLAD, and four free registers make two groups of loads of
 * them. LDRD in place of the first four loads saves two instructions and costs a cycle.
 *
 * With CG_DSP_SHORT_LOOPS, for flash with wait states behind a cache of 1 kB (STM32F4 and L4), no
 * loop is longer than that cache: up to 6 % more cycles without wait states, and up to two fifths
 * fewer with them.
 */

/* clang-format off */

#define BEGIN(sum, x, y) "smuad " sum ", " x ", " y "\n\t"
#define CONTINUE(sum, x, y) "smlad " sum ", " x ", " y ", " sum "\n\t"

/* One channel pair: `v` loads its a and the first half of its b, `u` the second half. */
#define PAIR(op, v0, v1, u0, u1, u2)                                                               \
    "ldr r10, [r0, " v0 "\n\tldr r11, [r0, " v1 "\n\tldr r12, [r1, " u0 "\n\tldr lr, [r1, " u1      \
    "\n\t"                                                                                         \
    op("r2", "r10", "r12") op("r3", "r10", "lr") op("r6", "r11", "r12") op("r7", "r11", "lr")      \
    "ldrd r12, lr, [r1, " u2 "\n\t"                                                               \
    op("r4", "r10", "r12") op("r5", "r10", "lr") op("r8", "r11", "r12") op("r9", "r11", "lr")

/* Two pairs. r0 is 4 and r1 is 8 bytes before what comes next, so that the last load of each moves
 * the pointer on. */
#define TWO(op)                                                                                    \
    PAIR(op, "#4]", "#8]", "#8]", "#12]", "#16]")                                                  \
    PAIR(CONTINUE, "#12]", "#16]!", "#24]", "#28]", "#32]!")
#define TWO_BYTES 104
#define SIX_MORE TWO(CONTINUE) TWO(CONTINUE) TWO(CONTINUE)
#define EIGHT_MORE TWO(CONTINUE) SIX_MORE

/* The body of the loop over pairs, and how often it holds TWO. */
#if defined(CG_DSP_SHORT_LOOPS)
#define TURN EIGHT_MORE
#define TURN_TWOS 4
#else
#define TURN EIGHT_MORE EIGHT_MORE
#define TURN_TWOS 8
#endif

/* Writes the sums; single stores are a cycle faster than STM. */
#define STORE(at)                                                                                  \
    "str r2, [r10, #" #at " + 0]\n\tstr r3, [r10, #" #at " + 4]\n\t"                               \
    "str r4, [r10, #" #at " + 8]\n\tstr r5, [r10, #" #at " + 12]\n\t"                              \
    "str r6, [r10, #" #at " + 16]\n\tstr r7, [r10, #" #at " + 20]\n\t"                             \
    "str r8, [r10, #" #at " + 24]\n\tstr r9, [r10, #" #at " + 28]\n\t"

/* `last` is how far one turn of `code` moves the sums. */
#define STRAIGHT(code, last)                                                                       \
    const int32_t *const end = sums + (size_t)positions * 8;                                       \
    register uintptr_t next_a __asm("r0") = (uintptr_t)a - 4;                                      \
    register uintptr_t next_b __asm("r1") = (uintptr_t)b - 8;                                      \
    __asm volatile("1:\n\t"                                                                        \
                   code                                                                            \
                   "add r10, r10, #" #last "\n\t"                                                 \
                   "str r10, %[sums]\n\t"                                                         \
                   "cmp r10, r11\n\t"                                                             \
                   "bne.w 1b"                                                                      \
                   : "+r"(next_a), "+r"(next_b), [sums] "+m"(sums)                                 \
                   : [end] "m"(end)                                                                \
                   : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr",    \
                     "cc", "memory")

/*
 * Any even number of pairs. The first two pairs of a position stand apart: they need no sums to
 * begin with. The rest runs through a loop of TURN, entered in its middle where the rest is no
 * multiple of that, and at its end where there is no rest. The address to enter at has bit 0 set:
 * Thumb. `rewind` is code to run after each position.
 */
#define LOOP(rewind)                                                                               \
    const uint32_t rest = pairs / 2 - 1;                                                           \
    const uint32_t skip = (rest == 0 ? TURN_TWOS : (0u - rest) % TURN_TWOS) * TWO_BYTES;           \
    const uint32_t stride = pairs * 8;                                                             \
    register uintptr_t next_a __asm("r0") = (uintptr_t)a - 4;                                      \
    register uintptr_t next_b __asm("r1") = (uintptr_t)b - 8;                                      \
    uintptr_t row_end = next_a + stride;                                                           \
    const int32_t *const end = sums + (size_t)positions * 8;                                       \
    const uintptr_t from = next_b;                                                                 \
    uint32_t entry = 0;                                                                            \
    __asm volatile("adr.w r10, 2f\n\t"                                                             \
                   "ldr r11, %[skip]\n\t"                                                         \
                   "add r10, r10, r11\n\t"                                                        \
                   "orr r10, r10, #1\n\t"                                                         \
                   "str r10, %[entry]\n"                                                          \
                   "1:\n\t"                                                                       \
                   TWO(BEGIN)                                                                      \
                   "ldr r10, %[entry]\n\t"                                                        \
                   "bx r10\n\t"                                                                   \
                   ".balign 4\n"                                                                  \
                   "2:\n\t"                                                                       \
                   TURN                                                                            \
                   "ldr r10, %[row_end]\n\t"                                                      \
                   "ldr r11, %[stride]\n\t"                                                       \
                   "cmp r0, r10\n\t"                                                              \
                   "bne.w 2b\n\t"                                                                 \
                   "add r11, r10, r11\n\t"                                                        \
                   "str r11, %[row_end]\n\t"                                                      \
                   rewind                                                                          \
                   "ldr r10, %[sums]\n\t"                                                         \
                   "ldr r11, %[end]\n\t"                                                          \
                   STORE(0)                                                                        \
                   "add r10, r10, #32\n\t"                                                        \
                   "str r10, %[sums]\n\t"                                                         \
                   "cmp r10, r11\n\t"                                                             \
                   "bne.w 1b"                                                                      \
                   : "+r"(next_a), "+r"(next_b), [entry] "+m"(entry), [row_end] "+m"(row_end),     \
                     [sums] "+m"(sums)                                                             \
                   : [skip] "m"(skip), [stride] "m"(stride), [end] "m"(end), [from] "m"(from)      \
                   : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr",    \
                     "cc", "memory")

/* One position a turn, or two: their number is even. */
#define ONE_POSITION(code)                                                                         \
    STRAIGHT(code "ldr r10, %[sums]\n\tldr r11, %[end]\n\t" STORE(0), 32)
#define TWO_POSITIONS(code)                                                                        \
    STRAIGHT(code "ldr r10, %[sums]\n\t" STORE(0)                                                  \
             code "ldr r10, %[sums]\n\tldr r11, %[end]\n\t" STORE(32), 64)
#if defined(CG_DSP_SHORT_LOOPS)
#define POSITIONS ONE_POSITION
#else
#define POSITIONS TWO_POSITIONS
#endif

/* 4 channels (what images have, filled up), 16, 32 and 64 without loop over pairs. */
static __attribute__((noinline)) void mac_2_pairs(const uint32_t *a, const uint32_t *b,
                                                  uint32_t positions, int32_t *sums) {
    TWO_POSITIONS(TWO(BEGIN));
}

static __attribute__((noinline)) void mac_8_pairs(const uint32_t *a, const uint32_t *b,
                                                  uint32_t positions, int32_t *sums) {
    POSITIONS(TWO(BEGIN) SIX_MORE);
}

static __attribute__((noinline)) void mac_16_pairs(const uint32_t *a, const uint32_t *b,
                                                   uint32_t positions, int32_t *sums) {
    POSITIONS(TWO(BEGIN) SIX_MORE EIGHT_MORE);
}

#if !defined(CG_DSP_SHORT_LOOPS)
static __attribute__((noinline)) void mac_32_pairs(const uint32_t *a, const uint32_t *b,
                                                   uint32_t positions, int32_t *sums) {
    ONE_POSITION(TWO(BEGIN) SIX_MORE EIGHT_MORE EIGHT_MORE EIGHT_MORE);
}
#endif

static __attribute__((noinline)) void mac_any(const uint32_t *a, const uint32_t *b, uint32_t pairs,
                                              uint32_t positions, int32_t *sums) {
    LOOP("");
}

void cg_dsp_mac_rewind(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                       int32_t *sums) {
    LOOP("ldr r1, %[from]\n\t");
}

/* clang-format on */

void cg_dsp_mac(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                int32_t *sums) {
    switch (pairs) {
    case 2:
        mac_2_pairs(a, b, positions, sums);
        break;
    case 8:
        mac_8_pairs(a, b, positions, sums);
        break;
    case 16:
        mac_16_pairs(a, b, positions, sums);
        break;
#if !defined(CG_DSP_SHORT_LOOPS)
    case 32:
        mac_32_pairs(a, b, positions, sums);
        break;
#endif
    default:
        mac_any(a, b, pairs, positions, sums);
    }
}

#else

/* The same in C. */
static void mac(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                int32_t *sums, int rewind) {
    const uint32_t *const from = b;
    for (uint32_t p = 0; p < positions; p++, sums += 8) {
        uint32_t block[8] = {0};
        for (uint32_t k = 0; k < pairs; k++, a += 2, b += 4) {
            for (int i = 0; i < 8; i++) {
                block[i] =
                    (uint32_t)__smlad((int16x2_t)a[i / 4], (int16x2_t)b[i % 4], (int32_t)block[i]);
            }
        }
        memcpy(sums, block, sizeof block);
        b = rewind ? from : b;
    }
}

void cg_dsp_mac(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                int32_t *sums) {
    mac(a, b, pairs, positions, sums, 0);
}

void cg_dsp_mac_rewind(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                       int32_t *sums) {
    mac(a, b, pairs, positions, sums, 1);
}

#endif
#endif
