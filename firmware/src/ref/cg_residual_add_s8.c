/* Residual addition in place, reference (SPEC.md, section 5.4). */
#include "cg_requant.h"
#include "cgate.h"

cg_status cg_residual_add_s8__ref(const cg_residual_add_s8 *parameters, const int8_t *input,
                                  int8_t *output, void *scratch) {
    (void)scratch;
    if (parameters == NULL || input == NULL || output == NULL) {
        return CG_ERR_NULL;
    }
    const uint32_t size = parameters->size;
    for (uint32_t i = 0; i < size; i++) {
        output[i] = cg_clamp(output[i] + input[i], INT8_MIN, INT8_MAX);
    }
    return CG_OK;
}

size_t cg_residual_add_s8__ref_scratch(const cg_residual_add_s8 *parameters) {
    (void)parameters;
    return 0;
}
