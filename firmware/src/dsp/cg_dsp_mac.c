/* The multiply-accumulate loop of all convolutions for DSP cores; contract in cg_dsp.h. */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

#if defined(__OPTIMIZE__) && !defined(CG_DSP_NO_ASM)

/*
 * Assembly, because the block of 2 x 4 sums needs all 14 registers and GCC spills: 8 sums (r2-r9),
 * two pointers (r0, r1), two words each of a (r10, r11) and b (r12, lr). What else there is lives
 * on the stack. (Without optimisation GCC keeps r7 for itself, hence the condition above.)
 */

/* clang-format off */

/* One channel pair: 16 multiply-accumulates in 11 instructions of 4 bytes. */
#define PAIR(op)                                                                                   \
    "ldrd r10, r11, [r0], #8\n\t"                                                                  \
    "ldrd r12, lr, [r1], #8\n\t"                                                                   \
    op("r2", "r10", "r12") op("r3", "r10", "lr") op("r6", "r11", "r12") op("r7", "r11", "lr")      \
    "ldrd r12, lr, [r1], #8\n\t"                                                                   \
    op("r4", "r10", "r12") op("r5", "r10", "lr") op("r8", "r11", "r12") op("r9", "r11", "lr")
#define BEGIN(sum, x, y) "smuad " sum ", " x ", " y "\n\t"
#define CONTINUE(sum, x, y) "smlad " sum ", " x ", " y ", " sum "\n\t"
#define TWO_PAIRS PAIR(CONTINUE) PAIR(CONTINUE)
#define TWO_PAIRS_BYTES 88

/*
 * The first two pairs of a position stand apart: they need no sums to begin with. The rest runs
 * through a loop of eight pairs, entered in its middle where the rest is no multiple of eight, and
 * at its end where there is no rest. The address to enter at has bit 0 set: Thumb. `rewind` is code
 * to run after each position.
 */
#define MAC(rewind)                                                                                \
    const uint32_t rest = pairs / 2 - 1;                                                           \
    const uint32_t skip = (rest == 0 ? 4 : (0u - rest) % 4) * TWO_PAIRS_BYTES;                     \
    const uint32_t stride = pairs * 8;                                                             \
    const uint32_t *row_end = a + pairs * 2;                                                       \
    const int32_t *const sums_end = sums + (size_t)positions * 8;                                  \
    const uint32_t *const from = b;                                                                \
    uint32_t entry = 0;                                                                            \
    register const uint32_t *next_a __asm("r0") = a;                                               \
    register const uint32_t *next_b __asm("r1") = b;                                               \
    __asm volatile("adr.w r10, 2f\n\t"                                                             \
                   "ldr r11, %[skip]\n\t"                                                          \
                   "add r10, r10, r11\n\t"                                                         \
                   "orr r10, r10, #1\n\t"                                                          \
                   "str r10, %[entry]\n"                                                           \
                   "1:\n\t"                                                                        \
                   PAIR(BEGIN)                                                                     \
                   PAIR(CONTINUE)                                                                  \
                   "ldr r10, %[entry]\n\t"                                                         \
                   "bx r10\n\t"                                                                    \
                   ".balign 4\n"                                                                   \
                   "2:\n\t"                                                                        \
                   TWO_PAIRS TWO_PAIRS TWO_PAIRS TWO_PAIRS                                         \
                   "ldr r10, %[row_end]\n\t"                                                       \
                   "cmp r0, r10\n\t"                                                               \
                   "bne.w 2b\n\t"                                                                  \
                   "ldr r11, %[stride]\n\t"                                                        \
                   "add r10, r10, r11\n\t"                                                         \
                   "str r10, %[row_end]\n\t"                                                       \
                   rewind                                                                          \
                   "ldr r11, %[sums]\n\t"                                                          \
                   "stm r11!, {r2-r9}\n\t"                                                         \
                   "str r11, %[sums]\n\t"                                                          \
                   "ldr r10, %[sums_end]\n\t"                                                      \
                   "cmp r11, r10\n\t"                                                              \
                   "bne.w 1b"                                                                      \
                   : "+r"(next_a), "+r"(next_b), [entry] "+m"(entry), [row_end] "+m"(row_end),     \
                     [sums] "+m"(sums)                                                             \
                   : [skip] "m"(skip), [stride] "m"(stride), [sums_end] "m"(sums_end),             \
                     [from] "m"(from)                                                              \
                   : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr",    \
                     "cc", "memory")

/* clang-format on */

void cg_dsp_mac(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                int32_t *sums) {
    MAC("");
}

void cg_dsp_mac_rewind(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                       int32_t *sums) {
    MAC("ldr r1, %[from]\n\t");
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
