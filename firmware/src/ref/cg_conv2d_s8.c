/* Convolution, reference (SPEC.md, section 5.2). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

cg_status cg_conv2d_s8__ref(const cg_conv2d_s8 *parameters, const int8_t *input, int8_t *output,
                            void *scratch) {
    (void)scratch;
    const cg_conv2d_s8 *const p = parameters;
    const cg_status status = cg_check_conv2d(p, input, output);
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
        cg_clip(top, p->kernel_height, p->in_height, &ky_first, &ky_end);
        for (int x = 0; x < p->out_width; x++) {
            const int left = x * p->stride - p->pad_left;
            int kx_first, kx_end;
            cg_clip(left, p->kernel_width, p->in_width, &kx_first, &kx_end);
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
