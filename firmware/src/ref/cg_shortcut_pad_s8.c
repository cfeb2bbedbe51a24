/* Option A shortcut, reference (SPEC.md, section 5.5). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

cg_status cg_shortcut_pad_s8__ref(const cg_shortcut_pad_s8 *parameters, const int8_t *input,
                                  int8_t *output, void *scratch) {
    (void)scratch;
    const cg_shortcut_pad_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const int first = p->channels_before;
    const int end = first + p->in_channels;
    if (p->stride == 0 || end > p->out_channels || !cg_is_int8(p->in_zero_point) ||
        !cg_is_int8(p->out_zero_point) || !cg_is_shift(p->shift)) {
        return CG_ERR_PARAM;
    }
    const int8_t zero = (int8_t)p->out_zero_point;
    for (int y = 0; y < p->in_height; y += p->stride) {
        for (int x = 0; x < p->in_width; x += p->stride) {
            const int8_t *in = input + ((size_t)y * p->in_width + (size_t)x) * p->in_channels;
            for (int c = 0; c < p->out_channels; c++) {
                if (c < first || c >= end) {
                    *output++ = zero;
                } else {
                    const int32_t scaled =
                        cg_requant(*in++ - p->in_zero_point, p->multiplier, p->shift);
                    *output++ = cg_offset_clamp(scaled, zero, INT8_MIN, INT8_MAX);
                }
            }
        }
    }
    return CG_OK;
}

size_t cg_shortcut_pad_s8__ref_scratch(const cg_shortcut_pad_s8 *parameters) {
    (void)parameters;
    return 0;
}
