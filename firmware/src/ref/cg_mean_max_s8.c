/* Mean and maximum over height and width, reference (SPEC.md, section 5.7). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

/* 255 * CG_MAX_PIXELS fits int32. */
#define CG_MAX_PIXELS (INT32_MAX / 255)

cg_status cg_mean_max_s8__ref(const cg_mean_max_s8 *parameters, const int8_t *input, int8_t *output,
                              void *scratch) {
    (void)scratch;
    const cg_mean_max_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const uint32_t pixels = (uint32_t)p->height * p->width;
    if (pixels == 0 || pixels > CG_MAX_PIXELS || !cg_is_int8(p->zero_point) ||
        !cg_is_shift(p->shift)) {
        return CG_ERR_PARAM;
    }
    const size_t channels = p->channels;
    for (size_t c = 0; c < channels; c++) {
        int32_t acc = 0;
        int32_t peak = INT8_MIN;
        const int8_t *in = input + c;
        for (uint32_t i = 0; i < pixels; i++, in += channels) {
            acc += *in - p->zero_point;
            peak = *in > peak ? *in : peak;
        }
        const int32_t scaled = cg_requant(acc, p->multiplier, p->shift);
        output[c] = cg_offset_clamp(scaled, p->zero_point, INT8_MIN, INT8_MAX);
        output[channels + c] = (int8_t)peak;
    }
    return CG_OK;
}

size_t cg_mean_max_s8__ref_scratch(const cg_mean_max_s8 *parameters) {
    (void)parameters;
    return 0;
}
