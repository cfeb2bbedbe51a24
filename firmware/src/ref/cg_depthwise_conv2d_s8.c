/* Depthwise convolution, reference (SPEC.md, section 5.8). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

cg_status cg_depthwise_conv2d_s8__ref(const cg_depthwise_conv2d_s8 *parameters, const int8_t *input,
                                      int8_t *output, void *scratch) {
    (void)scratch;
    const cg_depthwise_conv2d_s8 *const p = parameters;
    const cg_status status = cg_check_conv2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    if (p->in_channels == 0 || p->out_channels % p->in_channels != 0) {
        return CG_ERR_PARAM;
    }
    const int multiplier = p->out_channels / p->in_channels;
    for (int y = 0; y < p->out_height; y++) {
        const int top = y * p->stride - p->pad_top;
        int ky_first, ky_end;
        cg_clip(top, p->kernel_height, p->in_height, &ky_first, &ky_end);
        for (int x = 0; x < p->out_width; x++) {
            const int left = x * p->stride - p->pad_left;
            int kx_first, kx_end;
            cg_clip(left, p->kernel_width, p->in_width, &kx_first, &kx_end);
            for (int o = 0; o < p->out_channels; o++) {
                /* Unsigned, so that a sum beyond int32 wraps instead of being undefined. */
                uint32_t acc = (uint32_t)p->bias[o];
                for (int ky = ky_first; ky < ky_end; ky++) {
                    for (int kx = kx_first; kx < kx_end; kx++) {
                        const size_t pixel = (size_t)(top + ky) * p->in_width + (size_t)(left + kx);
                        const size_t tap = (size_t)ky * p->kernel_width + (size_t)kx;
                        const int value = input[pixel * p->in_channels + (size_t)(o / multiplier)];
                        const int weight = p->weights[tap * p->out_channels + (size_t)o];
                        acc += (uint32_t)(weight * (value - p->in_zero_point));
                    }
                }
                const int32_t scaled = cg_requant((int32_t)acc, p->multiplier[o], p->shift[o]);
                *output++ = cg_offset_clamp(scaled, p->out_zero_point, p->clamp_min, p->clamp_max);
            }
        }
    }
    return CG_OK;
}

size_t cg_depthwise_conv2d_s8__ref_scratch(const cg_depthwise_conv2d_s8 *parameters) {
    (void)parameters;
    return 0;
}
