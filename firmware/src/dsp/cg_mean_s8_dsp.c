/* Mean over height and width for DSP cores (SPEC.md 5.3): two sums a register. */
#include "cg_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum {
    CHUNK = 256,                  /* 256 int8 values always fit an int16 sum */
    MAX_PIXELS = INT32_MAX / 255, /* as many int8 values less a zero point fit int32 */
};

/* Adds the pixels of four channels to sums[4]. */
static void add_four(const int8_t *in, uint32_t pixels, size_t channels, int32_t *sums) {
    while (pixels != 0) {
        uint32_t count = pixels < CHUNK ? pixels : CHUNK;
        pixels -= count;
        uint32_t even = 0, odd = 0; /* channels 0 and 2, 1 and 3 */
        for (; count >= 2; count -= 2, in += 2 * channels) {
            const uint32_t first = cg_dsp_load(in), second = cg_dsp_load(in + channels);
            even = cg_dsp_widen_even(cg_dsp_widen_even(even, first), second);
            odd = cg_dsp_widen_odd(cg_dsp_widen_odd(odd, first), second);
        }
        if (count != 0) {
            const uint32_t four = cg_dsp_load(in);
            even = cg_dsp_widen_even(even, four);
            odd = cg_dsp_widen_odd(odd, four);
            in += channels;
        }
        sums[0] += (int16_t)even;
        sums[1] += (int16_t)odd;
        sums[2] += (int32_t)even >> 16;
        sums[3] += (int32_t)odd >> 16;
    }
}

cg_status cg_mean_s8__dsp(const cg_mean_s8 *parameters, const int8_t *input, int8_t *output,
                          void *scratch) {
    (void)scratch;
    const cg_mean_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const uint32_t pixels = (uint32_t)p->height * p->width;
    if (pixels == 0 || pixels > MAX_PIXELS || !cg_is_int8(p->in_zero_point) ||
        !cg_is_int8(p->out_zero_point) || !cg_is_shift(p->shift)) {
        return CG_ERR_PARAM;
    }
    const int32_t zeros = (int32_t)pixels * p->in_zero_point;
    const size_t channels = p->channels;
    for (size_t c = 0; c < channels; c += 4) {
        const size_t count = channels - c < 4 ? channels - c : 4;
        int32_t sums[4] = {0};
        if (count == 4) {
            add_four(input + c, pixels, channels, sums);
        } else {
            for (size_t i = 0; i < count; i++) {
                const int8_t *in = input + c + i;
                for (uint32_t n = 0; n < pixels; n++, in += channels) {
                    sums[i] += *in;
                }
            }
        }
        for (size_t i = 0; i < count; i++) {
            const int32_t scaled = cg_requant(sums[i] - zeros, p->multiplier, p->shift);
            output[c + i] = cg_offset_clamp(scaled, p->out_zero_point, INT8_MIN, INT8_MAX);
        }
    }
    return CG_OK;
}

size_t cg_mean_s8__dsp_scratch(const cg_mean_s8 *parameters) {
    (void)parameters;
    return 0;
}

#endif
