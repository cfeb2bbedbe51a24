/* Convolution, reference (SPEC.md, section 5.2). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

static cg_status check(const cg_conv2d_s8 *p, const int8_t *input, const int8_t *output) {
    if (p == NULL || input == NULL || output == NULL || p->weights == NULL || p->bias == NULL ||
        p->multiplier == NULL || p->shift == NULL) {
        return CG_ERR_NULL;
    }
    if (p->stride == 0 || p->clamp_min > p->clamp_max || !cg_is_int8(p->in_zero_point) ||
        !cg_is_int8(p->out_zero_point)) {
        return CG_ERR_PARAM;
    }
    for (int o = 0; o < p->out_channels; o++) {
        if (!cg_is_shift(p->shift[o])) {
            return CG_ERR_PARAM;
        }
    }
    return CG_OK;
}

/* The part of a kernel of `size` taps, placed at `start`, that lies on an input of `limit`. */
static void clip(int start, int size, int limit, int *first, int *end) {
    *first = start < 0 ? -start : 0;
    *end = start + size > limit ? limit - start : size;
}

cg_status cg_conv2d_s8__ref(const cg_conv2d_s8 *parameters, const int8_t *input, int8_t *output,
                            void *scratch) {
    (void)scratch;
    const cg_conv2d_s8 *const p = parameters;
    const cg_status status = check(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    const int32_t in_zero_point = p->in_zero_point;
    const int channels = p->in_channels;
    const size_t in_row = (size_t)p->in_width * p->in_channels;
    const size_t kernel_row = (size_t)p->kernel_width * p->in_channels;

    for (int y = 0; y < p->out_height; y++) {
        const int top = y * p->stride - p->pad_top;
        int ky_first, ky_end;
        clip(top, p->kernel_height, p->in_height, &ky_first, &ky_end);
        for (int x = 0; x < p->out_width; x++) {
            const int left = x * p->stride - p->pad_left;
            int kx_first, kx_end;
            clip(left, p->kernel_width, p->in_width, &kx_first, &kx_end);
            /* Within a kernel row, taps and their channels are contiguous on both sides. */
            const int run = kx_end > kx_first ? (kx_end - kx_first) * channels : 0;
            for (int o = 0; o < p->out_channels; o++) {
                /* Unsigned, so that a sum beyond int32 wraps instead of being undefined. */
                uint32_t acc = (uint32_t)p->bias[o];
                for (int ky = ky_first; run > 0 && ky < ky_end; ky++) {
                    const int8_t *in = input + (size_t)(top + ky) * in_row +
                                       (size_t)((left + kx_first) * channels);
                    const int8_t *weight =
                        p->weights + ((size_t)o * p->kernel_height + (size_t)ky) * kernel_row +
                        (size_t)(kx_first * channels);
                    for (int i = 0; i < run; i++) {
                        acc += (uint32_t)(weight[i] * (in[i] - in_zero_point));
                    }
                }
                const int32_t scaled = cg_requant((int32_t)acc, p->multiplier[o], p->shift[o]);
                *output++ = cg_offset_clamp(scaled, p->out_zero_point, p->clamp_min, p->clamp_max);
            }
        }
    }
    return CG_OK;
}

size_t cg_conv2d_s8__ref_scratch(const cg_conv2d_s8 *parameters) {
    (void)parameters;
    return 0;
}
