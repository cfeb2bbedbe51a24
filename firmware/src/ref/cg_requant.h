/*
 * The integer arithmetic that all reference kernels share (SPEC.md, section 5.1): TFLite's double
 * rounding. `export` has a Python twin; the tests hold the two equal.
 *
 * Free of undefined behaviour for all arguments with left and right shift in 0..31: what can wrap
 * is unsigned. Conversion of an unsigned value to a signed type and the right shift of a negative
 * value are implementation-defined in C11; GCC and Clang document two's complement for both.
 */
#ifndef CG_REQUANT_H
#define CG_REQUANT_H

#include <stdint.h>

/* acc * multiplier / 2^31 * 2^shift, rounded twice; -31 <= shift <= 31. */
static inline int32_t cg_requant(int32_t acc, int32_t multiplier, int shift) {
    const unsigned left = shift > 0 ? (unsigned)shift : 0;
    const unsigned right = shift < 0 ? (unsigned)-shift : 0;
    const int32_t a = (int32_t)((uint32_t)acc << left);

    /* gemmlowp adds a nudge whose sign follows the product and divides toward zero. That equals
     * rounding to nearest with ties upward, which needs no branch. */
    const int64_t product = (int64_t)a * multiplier;
    const int32_t p = (int32_t)((product + (INT64_C(1) << 30)) >> 31);

    /* Ties away from zero. */
    const uint32_t mask = (UINT32_C(1) << right) - 1;
    const uint32_t remainder = (uint32_t)p & mask;
    const uint32_t half = (mask >> 1) + (p < 0 ? 1 : 0);
    return (int32_t)((uint32_t)(p >> right) + (remainder > half ? 1 : 0));
}

static inline int8_t cg_clamp(int32_t value, int32_t low, int32_t high) {
    return (int8_t)(value < low ? low : value > high ? high : value);
}

/* sum / count, rounded half away from zero; count is positive. */
static inline int32_t cg_rounded_mean(int32_t sum, int32_t count) {
    return sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
}

/* value + zero_point, clamped, without overflow. All of low, high and zero_point are int8 values.
 */
static inline int8_t cg_offset_clamp(int32_t value, int32_t zero_point, int32_t low, int32_t high) {
    /* A power of two wide enough for all that survives the clamp: one SSAT on Cortex-M. */
    return cg_clamp((value < -512 ? -512 : value > 511 ? 511 : value) + zero_point, low, high);
}

#endif
