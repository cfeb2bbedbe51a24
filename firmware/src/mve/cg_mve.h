/*
 * What the kernels for cores with Helium share (Armv8.1-M with MVE; its integer half is enough).
 *
 * Sources in this folder compile to nothing where __ARM_FEATURE_MVE is not defined.
 */
#ifndef CG_MVE_H
#define CG_MVE_H

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#include <stdint.h>

/* Vectors of 16 int8 at a time, the last one cut to what is left: three instructions each. GCC
 * makes no loops with tail predication of intrinsics. Both return where `to` goes on. */
static inline int8_t *cg_mve_copy(const int8_t *from, int32_t count, int8_t *to) {
    int8_t *const end = to + count;
    __asm volatile("wlstp.8 lr, %[count], 2f\n"
                   "1:\n\t"
                   "vldrb.8 q0, [%[from]], #16\n\t"
                   "vstrb.8 q0, [%[to]], #16\n\t"
                   "letp lr, 1b\n"
                   "2:"
                   : [from] "+r"(from), [to] "+r"(to)
                   : [count] "r"(count)
                   : "q0", "lr", "memory");
    return end;
}

static inline int8_t *cg_mve_fill(int8_t value, int32_t count, int8_t *to) {
    int8_t *const end = to + count;
    __asm volatile("vdup.8 q0, %[value]\n\t"
                   "wlstp.8 lr, %[count], 2f\n"
                   "1:\n\t"
                   "vstrb.8 q0, [%[to]], #16\n\t"
                   "letp lr, 1b\n"
                   "2:"
                   : [to] "+r"(to)
                   : [count] "r"(count), [value] "r"(value)
                   : "q0", "lr", "memory");
    return end;
}

/*
 * SPEC.md 5.1 for four accumulators; `left` >= 0 and `right` <= 0 are the shift's two directions.
 *
 * VQRDMULH is the rounding doubling multiplication; it saturates only where both factors are
 * -2^31, which no multiplier is. VRSHL rounds ties upward: numbers below 0 that are shifted at all
 * get -1 first. What that saturates is a multiple of the divisor, and no tie.
 */
static inline int32x4_t cg_mve_requant(int32x4_t acc, int32x4_t multiplier, int32x4_t left,
                                       int32x4_t right) {
    const int32x4_t p = vqrdmulhq_s32(vshlq_s32(acc, left), multiplier);
    const int32x4_t down = vshrq_n_s32(vandq_s32(p, right), 31);
    return vrshlq_s32(vqaddq_s32(p, down), right);
}

#endif
#endif
