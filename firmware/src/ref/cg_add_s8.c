/* Addition in place of tensors with scales of their own, reference (SPEC.md, section 5.10). */
#include "cg_check.h"
#include "cg_requant.h"
#include "cgate.h"

/* Both inputs are magnified by 2^20 before they are rescaled: 255 * 2^20 fits int32. */
#define CG_MAGNIFY (1 << 20)

static int is_legal(int32_t multiplier, int32_t shift, int32_t zero_point) {
    return multiplier >= 0 && cg_is_shift(shift) && shift <= 0 && cg_is_int8(zero_point);
}

cg_status cg_add_s8__ref(const cg_add_s8 *parameters, const int8_t *input, int8_t *output,
                         void *scratch) {
    (void)scratch;
    const cg_add_s8 *const p = parameters;
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    if (p->clamp_min > p->clamp_max || !is_legal(p->in_multiplier, p->in_shift, p->in_zero_point) ||
        !is_legal(p->stream_multiplier, p->stream_shift, p->stream_zero_point) ||
        !is_legal(p->out_multiplier, p->out_shift, p->out_zero_point)) {
        return CG_ERR_PARAM;
    }
    const uint32_t size = p->size;
    for (uint32_t i = 0; i < size; i++) {
        const int32_t a = (input[i] - p->in_zero_point) * CG_MAGNIFY;
        const int32_t b = (output[i] - p->stream_zero_point) * CG_MAGNIFY;
        const int32_t sum = cg_requant(a, p->in_multiplier, p->in_shift) +
                            cg_requant(b, p->stream_multiplier, p->stream_shift);
        const int32_t scaled = cg_requant(sum, p->out_multiplier, p->out_shift);
        output[i] = cg_offset_clamp(scaled, p->out_zero_point, p->clamp_min, p->clamp_max);
    }
    return CG_OK;
}

size_t cg_add_s8__ref_scratch(const cg_add_s8 *parameters) {
    (void)parameters;
    return 0;
}
