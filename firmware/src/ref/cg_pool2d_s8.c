/* Maximum and mean of each window, reference (SPEC.md, section 5.9). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

static cg_status pool(int average, const cg_pool2d_s8 *p, const int8_t *input, int8_t *output) {
    const cg_status status = cg_check_pool2d(p, input, output);
    if (status != CG_OK) {
        return status;
    }
    for (int y = 0; y < p->out_height; y++) {
        const int top = y * p->stride - p->pad_top;
        int ky_first, ky_end;
        cg_clip(top, p->size_height, p->in_height, &ky_first, &ky_end);
        for (int x = 0; x < p->out_width; x++) {
            const int left = x * p->stride - p->pad_left;
            int kx_first, kx_end;
            cg_clip(left, p->size_width, p->in_width, &kx_first, &kx_end);
            const int32_t count = (ky_end - ky_first) * (kx_end - kx_first);
            for (size_t c = 0; c < p->channels; c++) {
                int32_t sum = 0;
                int32_t largest = INT8_MIN;
                for (int ky = ky_first; ky < ky_end; ky++) {
                    for (int kx = kx_first; kx < kx_end; kx++) {
                        const size_t pixel = (size_t)(top + ky) * p->in_width + (size_t)(left + kx);
                        const int32_t code = input[pixel * p->channels + c];
                        sum += code;
                        largest = code > largest ? code : largest;
                    }
                }
                const int32_t result = average ? cg_rounded_mean(sum, count) : largest;
                *output++ = cg_clamp(result, p->clamp_min, p->clamp_max);
            }
        }
    }
    return CG_OK;
}

cg_status cg_max_pool2d_s8__ref(const cg_max_pool2d_s8 *parameters, const int8_t *input,
                                int8_t *output, void *scratch) {
    (void)scratch;
    return pool(0, parameters, input, output);
}

size_t cg_max_pool2d_s8__ref_scratch(const cg_max_pool2d_s8 *parameters) {
    (void)parameters;
    return 0;
}

cg_status cg_avg_pool2d_s8__ref(const cg_avg_pool2d_s8 *parameters, const int8_t *input,
                                int8_t *output, void *scratch) {
    (void)scratch;
    return pool(1, parameters, input, output);
}

size_t cg_avg_pool2d_s8__ref_scratch(const cg_avg_pool2d_s8 *parameters) {
    (void)parameters;
    return 0;
}
