/*
 * Mean, and mean with maximum, over height and width for DSP cores (SPEC.md 5.3, 5.7), in one pass:
 * two sums a register, four maxima a register.
 */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum {
    CHUNK = 256,                  /* 256 int8 values always fit an int16 sum */
    MAX_PIXELS = INT32_MAX / 255, /* as many int8 values less a zero point fit int32 */
};

/* The next four pixels of four channels: `in` is the first, `last` the address of the fourth. */
static inline __attribute__((always_inline)) void add_four(const int8_t **in, uintptr_t *last,
                                                           size_t channels, uint32_t *even,
                                                           uint32_t *odd, uint32_t *peak,
                                                           int with_maximum) {
    uint32_t w0, w1, w2, w3;
    /* Assembly, because GCC does not keep the loads together, and moves the addresses on just
     * before they are needed, which costs a cycle. */
    __asm volatile("ldr %[w0], [%[in]]\n\t"
                   "ldr %[w1], [%[in], %[step]]\n\t"
                   "ldr %[w2], [%[in], %[step], lsl #1]\n\t"
                   "ldr %[w3], [%[last]]\n\t"
                   "add %[in], %[in], %[step], lsl #2\n\t"
                   "add %[last], %[last], %[step], lsl #2"
                   : [w0] "=&r"(w0), [w1] "=&r"(w1), [w2] "=&r"(w2), [w3] "=&r"(w3), [in] "+r"(*in),
                     [last] "+r"(*last)
                   : [step] "r"(channels)
                   : "memory");
    *even = cg_dsp_widen_even(cg_dsp_widen_even(*even, w0), w1);
    *odd = cg_dsp_widen_odd(cg_dsp_widen_odd(*odd, w0), w1);
    *even = cg_dsp_widen_even(cg_dsp_widen_even(*even, w2), w3);
    *odd = cg_dsp_widen_odd(cg_dsp_widen_odd(*odd, w2), w3);
    if (with_maximum) {
        *peak = cg_dsp_larger(cg_dsp_larger(*peak, w0), w1);
        *peak = cg_dsp_larger(cg_dsp_larger(*peak, w2), w3);
    }
}

/* Sums and maxima of four channels over all pixels. */
static inline __attribute__((always_inline)) uint32_t
reduce(const int8_t *in, uint32_t pixels, size_t channels, int32_t *sums, int with_maximum) {
    uint32_t peak = 0x80808080;
    uintptr_t last = (uintptr_t)in + 3 * channels; /* no pointer: the map may end before */
    while (pixels != 0) {
        uint32_t count = pixels < CHUNK ? pixels : CHUNK;
        pixels -= count;
        uint32_t even = 0, odd = 0; /* channels 0 and 2, 1 and 3 */
        for (uint32_t eights = count / 8; eights != 0; eights--) {
            add_four(&in, &last, channels, &even, &odd, &peak, with_maximum);
            add_four(&in, &last, channels, &even, &odd, &peak, with_maximum);
        }
        if (count & 4) {
            add_four(&in, &last, channels, &even, &odd, &peak, with_maximum);
        }
        for (count &= 3; count != 0; count--, in += channels) {
            const uint32_t four = cg_dsp_load(in);
            even = cg_dsp_widen_even(even, four);
            odd = cg_dsp_widen_odd(odd, four);
            if (with_maximum) {
                peak = cg_dsp_larger(peak, four);
            }
        }
        sums[0] += (int16_t)even;
        sums[1] += (int16_t)odd;
        sums[2] += (int32_t)even >> 16;
        sums[3] += (int32_t)odd >> 16;
    }
    return peak;
}

/* The same for one channel. */
static int reduce_one(const int8_t *in, uint32_t pixels, size_t channels, int32_t *sum) {
    int peak = INT8_MIN;
    for (; pixels != 0; pixels--, in += channels) {
        *sum += *in;
        peak = *in > peak ? *in : peak;
    }
    return peak;
}

static inline __attribute__((always_inline)) void
reduce_all(const cg_mean_s8 *p, const int8_t *input, int8_t *output, int8_t *peaks) {
    const uint32_t pixels = (uint32_t)p->height * p->width;
    const int32_t zeros = (int32_t)pixels * p->in_zero_point;
    const size_t channels = p->channels;
    /* Where cg_dsp_requant is right, and twice a sum fits int32. */
    const int fast =
        p->multiplier >= 0 && -22 <= p->shift && p->shift < 0 && pixels <= MAX_PIXELS / 2;
    const int right = fast ? -p->shift : 1;
    const cg_dsp_channel c = {fast ? -2 * zeros : 0, p->multiplier,
                              (1 << (right - 1)) + p->out_zero_point * (1 << right), right};
    for (size_t o = 0; o < channels; o += 4) {
        const size_t count = channels - o < 4 ? channels - o : 4;
        int32_t sums[4] = {0};
        if (count == 4) {
            const uint32_t peak = reduce(input + o, pixels, channels, sums, peaks != NULL);
            if (peaks != NULL) {
                cg_dsp_store(peaks + o, peak);
            }
        } else {
            for (size_t i = 0; i < count; i++) {
                const int peak = reduce_one(input + o + i, pixels, channels, &sums[i]);
                if (peaks != NULL) {
                    peaks[o + i] = (int8_t)peak;
                }
            }
        }
        for (size_t i = 0; i < count; i++) {
            if (fast) {
                output[o + i] = cg_dsp_requant(2 * sums[i] + c.bias2, &c);
            } else {
                const int32_t scaled = cg_requant(sums[i] - zeros, p->multiplier, p->shift);
                output[o + i] = cg_offset_clamp(scaled, p->out_zero_point, INT8_MIN, INT8_MAX);
            }
        }
    }
}

static cg_status check(const cg_mean_s8 *p) {
    const uint32_t pixels = (uint32_t)p->height * p->width;
    return pixels == 0 || pixels > MAX_PIXELS || !cg_is_int8(p->in_zero_point) ||
                   !cg_is_int8(p->out_zero_point) || !cg_is_shift(p->shift)
               ? CG_ERR_PARAM
               : CG_OK;
}

cg_status cg_mean_s8__dsp(const cg_mean_s8 *parameters, const int8_t *input, int8_t *output,
                          void *scratch) {
    (void)scratch;
    if (parameters == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const cg_status status = check(parameters);
    if (status == CG_OK) {
        reduce_all(parameters, input, output, NULL);
    }
    return status;
}

size_t cg_mean_s8__dsp_scratch(const cg_mean_s8 *parameters) {
    (void)parameters;
    return 0;
}

cg_status cg_mean_max_s8__dsp(const cg_mean_max_s8 *parameters, const int8_t *input, int8_t *output,
                              void *scratch) {
    (void)scratch;
    const cg_mean_max_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const cg_mean_s8 mean = {p->height,     p->width,      p->channels, p->zero_point,
                             p->zero_point, p->multiplier, p->shift};
    const cg_status status = check(&mean);
    if (status == CG_OK) {
        reduce_all(&mean, input, output, output + p->channels);
    }
    return status;
}

size_t cg_mean_max_s8__dsp_scratch(const cg_mean_max_s8 *parameters) {
    (void)parameters;
    return 0;
}

#endif
