/* Convolution, reference (SPEC.md, section 5.2). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

enum { LANES = 4 };

/* An input less its zero point. 16 bits are enough, and let hosts multiply eight at a time; a
 * Cortex-M would extend them again. */
#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
typedef int32_t centred;
#else
typedef int16_t centred;
#endif

/* Adds a run of taps to the sums of LANES output channels, which share the input. The sums are
 * unsigned, because they may wrap. */
static void sum_row(uint32_t acc[LANES], const int8_t *const weight[LANES], size_t at,
                    const int8_t *in, int run, int32_t zero) {
    const int8_t *const w0 = weight[0] + at, *const w1 = weight[1] + at;
    const int8_t *const w2 = weight[2] + at, *const w3 = weight[3] + at;
    uint32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (int i = 0; i < run; i++) {
        const centred value = (centred)(in[i] - zero);
        a0 += (uint32_t)(w0[i] * value);
        a1 += (uint32_t)(w1[i] * value);
        a2 += (uint32_t)(w2[i] * value);
        a3 += (uint32_t)(w3[i] * value);
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}

cg_status cg_conv2d_s8__ref(const cg_conv2d_s8 *parameters, const int8_t *input, int8_t *output,
                            void *scratch) {
    (void)scratch;
    const cg_conv2d_s8 *const p = parameters;
    const cg_status status = cg_check_conv2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    const int32_t zero = p->in_zero_point;
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
            for (int o = 0; o < p->out_channels; o += LANES) {
                /* Lanes beyond the last channel compute it again, and are not stored. */
                const int8_t *weight[LANES];
                uint32_t acc[LANES];
                for (int lane = 0; lane < LANES; lane++) {
                    const int channel = o + lane < p->out_channels ? o + lane : p->out_channels - 1;
                    weight[lane] = p->weights + (size_t)channel * p->kernel_height * kernel_row;
                    acc[lane] = 0;
                }
                for (int ky = ky_first; run > 0 && ky < ky_end; ky++) {
                    const size_t row = (size_t)(top + ky) * in_row;
                    const int8_t *const in = input + row + (size_t)((left + kx_first) * channels);
                    const size_t at = (size_t)ky * kernel_row + (size_t)(kx_first * channels);
                    sum_row(acc, weight, at, in, run, zero);
                }
                for (int lane = 0; lane < LANES && o + lane < p->out_channels; lane++) {
                    const int32_t scaled =
                        cg_requant((int32_t)(acc[lane] + (uint32_t)p->bias[o + lane]),
                                   p->multiplier[o + lane], p->shift[o + lane]);
                    *output++ =
                        cg_offset_clamp(scaled, p->out_zero_point, p->clamp_min, p->clamp_max);
                }
            }
        }
    }
    return CG_OK;
}

size_t cg_conv2d_s8__ref_scratch(const cg_conv2d_s8 *parameters) {
    (void)parameters;
    return 0;
}
