/*
 * What the kernels for cores with the DSP extension share (Armv7E-M; Armv8-M with DSP).
 *
 * Sources in this folder compile to nothing where __ARM_FEATURE_DSP is not defined. Arrays of
 * int16 are handled as words of two, low half first. Widening a word of four bytes b0..b3 yields
 * the words (b0, b2) and (b1, b3); packed weights have the same order, so nothing is reordered at
 * run time. Activations may lie at any address; packed weights and scratch are aligned.
 */
#ifndef CG_DSP_H
#define CG_DSP_H

#include "../ref/cg_check.h"
#include "../ref/cg_requant.h"
#include "cgate.h"

#if defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
#include <string.h>

/* Assembly that takes all 14 registers: without optimisation GCC keeps r7 for itself, and Clang
 * always keeps one. They get C that does the same, as does whoever defines CG_DSP_NO_ASM. */
#if defined(__OPTIMIZE__) && !defined(__clang__) && !defined(CG_DSP_NO_ASM)
#define CG_DSP_ASM 1
#endif

/* One output channel, at the start of the packed weights of a convolution. */
typedef struct {
    int32_t bias2;      /* twice the bias, with the kernel's share of the zero points */
    int32_t multiplier; /* as in SPEC.md 5.1 */
    int32_t offset;     /* rounding and output zero point for cg_dsp_requant */
    int32_t right;      /* minus the shift */
} cg_dsp_channel;

/*
 * sums[p][i * 4 + j] = sum over k of a[p][k][i] . b[p][k][j], for `positions` p.
 *
 * a holds words [positions][pairs][2], b words [positions][pairs][4], sums [positions][8]; `.` is
 * the dot product of the two halves, and sums wrap modulo 2^32. `pairs` and
 * `positions` are even and at least 2.
 */
void cg_dsp_mac(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                int32_t *sums);

/* The same with one b [pairs][4] for all positions, of which there may be any number. */
void cg_dsp_mac_rewind(const uint32_t *a, const uint32_t *b, uint32_t pairs, uint32_t positions,
                       int32_t *sums);

/* A word from any address. */
static inline uint32_t cg_dsp_load(const int8_t *from) {
    uint32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void cg_dsp_store(int8_t *to, uint32_t word) {
    memcpy(to, &word, sizeof word);
}

/* Bytes 0 and 2, and bytes 1 and 3, of `four`, each added to a half of `pair`. ACLE has no form
 * with the rotation, and GCC does not always merge the two. */
static inline uint32_t cg_dsp_widen_even(uint32_t pair, uint32_t four) {
    return (uint32_t)__sxtab16((int16x2_t)pair, (int8x4_t)four);
}

static inline uint32_t cg_dsp_widen_odd(uint32_t pair, uint32_t four) {
    uint32_t result;
    __asm("sxtab16 %0, %1, %2, ror #8" : "=r"(result) : "r"(pair), "r"(four));
    return result;
}

/* Bytes 0 and 2 of `four`, or 1 and 3, as two halves. */
static inline uint32_t cg_dsp_spread(uint32_t four, int odd) {
    uint32_t result;
    if (odd) {
        __asm("sxtb16 %0, %1, ror #8" : "=r"(result) : "r"(four));
    } else {
        __asm("sxtb16 %0, %1" : "=r"(result) : "r"(four));
    }
    return result;
}

/* The larger of four bytes each. */
static inline uint32_t cg_dsp_larger(uint32_t x, uint32_t y) {
    uint32_t result;
    __asm("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(result) : "r"(x), "r"(y) : "cc");
    return result;
}

/* GCC's __ssat does not compile cleanly under -Wconversion. */
static inline int8_t cg_dsp_saturate(int32_t value) {
    int32_t result;
    __asm("ssat %0, #8, %1" : "=r"(result) : "r"(value) : "cc");
    return (int8_t)result;
}

/* The same number in both halves. */
static inline uint32_t cg_dsp_pair(int32_t value) {
    return ((uint32_t)value & 0xffff) * 0x10001u;
}

static inline uint32_t cg_dsp_add(uint32_t x, uint32_t y) {
    return (uint32_t)__sadd16((int16x2_t)x, (int16x2_t)y);
}

static inline uint32_t cg_dsp_subtract(uint32_t x, uint32_t y) {
    return (uint32_t)__ssub16((int16x2_t)x, (int16x2_t)y);
}

/*
 * SPEC.md 5.1 but for the last shift, in two instructions; `doubled` is twice the accumulator, and
 * `offset` is 2^(right - 1) plus what is added after that shift, times 2^right.
 *
 * The high half of doubled * multiplier, rounded, is the rounding doubling multiplication of
 * acc * multiplier. The second rounding's half, the zero point (both in `offset`) and the -1 that
 * turns ties of negative numbers away from zero ride on the same instruction. That -1 goes by the
 * sign of the accumulator, not of the product: they differ only where the product rounds to 0, and
 * there both give the same. Right for 1 <= right <= 22, multiplier >= 0, |acc| < 2^30.
 */
static inline int32_t cg_dsp_high(int32_t doubled, int32_t multiplier, int32_t offset) {
    const int32_t addend = offset + (doubled >> 31);
    int32_t high;
    __asm("smmlar %0, %1, %2, %3" : "=r"(high) : "r"(doubled), "r"(multiplier), "r"(addend));
    return high;
}

/* SPEC.md 5.1 and the output zero point, saturated to int8: five instructions. */
static inline int8_t cg_dsp_requant(int32_t doubled, const cg_dsp_channel *channel) {
    return cg_dsp_saturate(cg_dsp_high(doubled, channel->multiplier, channel->offset) >>
                           channel->right);
}

/* The same for every shift and clamp. */
static inline int8_t cg_dsp_requant_any(int32_t doubled, const cg_dsp_channel *channel,
                                        const cg_conv2d_s8 *p) {
    const int32_t scaled = cg_requant(doubled >> 1, channel->multiplier, -channel->right);
    return cg_offset_clamp(scaled, p->out_zero_point, p->clamp_min, p->clamp_max);
}

/* The checks all convolutions start with; *fast says whether cg_dsp_requant is right for all
 * channels. */
static inline cg_status cg_dsp_check(const cg_conv2d_s8 *p, const int8_t *input,
                                     const int8_t *output, const void *scratch, int *fast) {
    if (p == NULL || input == NULL || output == NULL || scratch == NULL || p->packed == NULL) {
        return CG_ERR_NULL;
    }
    if (p->stride == 0 || p->clamp_min > p->clamp_max || !cg_is_int8(p->in_zero_point) ||
        !cg_is_int8(p->out_zero_point)) {
        return CG_ERR_PARAM;
    }
    *fast = p->clamp_min == INT8_MIN && p->clamp_max == INT8_MAX;
    const cg_dsp_channel *channel = p->packed;
    for (int o = 0; o < p->out_channels; o++, channel++) {
        if (!cg_is_shift(-channel->right)) {
            return CG_ERR_PARAM;
        }
        *fast &= 1 <= channel->right && channel->right <= 22;
    }
    return CG_OK;
}

#endif
#endif
