/* Parameter checks that several reference kernels share. */
#ifndef CG_CHECK_H
#define CG_CHECK_H

#include <stdint.h>

static inline int cg_is_int8(int32_t value) {
    return -128 <= value && value <= 127;
}

static inline int cg_is_shift(int32_t value) {
    return -31 <= value && value <= 30;
}

#endif
