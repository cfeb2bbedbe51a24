/* What several reference kernels share: parameter checks, and windows at the edge of a map. */
#ifndef CG_CHECK_H
#define CG_CHECK_H

#include "cgate.h"

#include <stdint.h>

static inline int cg_is_int8(int32_t value) {
    return -128 <= value && value <= 127;
}

static inline int cg_is_shift(int32_t value) {
    return -31 <= value && value <= 30;
}

/* The part of a window of `size` taps, placed at `start`, that lies on a map of `limit`. */
static inline void cg_clip(int start, int size, int limit, int *first, int *end) {
    *first = start < 0 ? -start : 0;
    *end = start + size > limit ? limit - start : size;
}

/* What all kinds of convolution ask for. */
static inline cg_status cg_check_conv2d(const cg_conv2d_s8 *p, const int8_t *input,
                                        const int8_t *output) {
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

/* Whether the windows that begin at -pad, stride, .. all hold a part of the map. */
static inline int cg_windows_reach(int out, int stride, int size, int pad, int length) {
    return pad < size && (out - 1) * stride - pad < length;
}

/* What both kinds of pooling ask for. */
static inline cg_status cg_check_pool2d(const cg_pool2d_s8 *p, const int8_t *input,
                                        const int8_t *output) {
    if (p == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    /* 128 times the pixels of a window fits int32. */
    if (p->stride == 0 || p->clamp_min > p->clamp_max ||
        (uint32_t)p->size_height * p->size_width >= UINT32_C(1) << 23 ||
        !cg_windows_reach(p->out_height, p->stride, p->size_height, p->pad_top, p->in_height) ||
        !cg_windows_reach(p->out_width, p->stride, p->size_width, p->pad_left, p->in_width)) {
        return CG_ERR_PARAM;
    }
    return CG_OK;
}

#endif
