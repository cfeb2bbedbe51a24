/*
 * What generated model code needs besides the kernels: argument checks, error propagation, gates
 * and the hooks that let a caller watch and steer an inference.
 *
 * Applications include cgate.h; only generated code includes this file.
 */
#ifndef CG_MODEL_H
#define CG_MODEL_H

#include "cg_marker.h"
#include "cgate.h"

/*
 * One of two, by what the compiler's target has. Code for a core with DSP or Helium also runs
 * elsewhere, on the host first of all: there the reference kernel computes the same integers.
 */
#if defined(__ARM_FEATURE_DSP)
#define CG_DSP(with, without) with
#else
#define CG_DSP(with, without) without
#endif
#if defined(__ARM_FEATURE_MVE)
#define CG_MVE(with, without) with
#else
#define CG_MVE(with, without) without
#endif

/*
 * A kernel of Arm's CMSIS-NN, or the reference kernel on the host, which the library is not
 * compiled for. An Arm target does without it only by mistake.
 */
#if defined(CG_CMSIS_NN)
#define CG_CMSIS_NN_ON_TARGET(with, without) with
#elif defined(__arm__)
#define CG_CMSIS_NN_ON_TARGET(with, without) cg_compile_with_CMSIS_NN_and_define_CG_CMSIS_NN
#else
#define CG_CMSIS_NN_ON_TARGET(with, without) without
#endif

/* Leaves the calling function with the status of `call` unless that is CG_OK. A marker region that
 * is then still open is closed by the next inference. */
#define CG_TRY(call)                                                                               \
    do {                                                                                           \
        const cg_status cg_try_status_ = (call);                                                   \
        if (cg_try_status_ != CG_OK) {                                                             \
            return cg_try_status_;                                                                 \
        }                                                                                          \
    } while (0)

/* The checks every run function starts with. */
static inline cg_status cg_check(const int8_t *input, const int8_t *output, const void *arena) {
    if (input == NULL || output == NULL || arena == NULL) {
        return CG_ERR_NULL;
    }
    return (uintptr_t)arena % CG_ARENA_ALIGN == 0 ? CG_OK : CG_ERR_ALIGN;
}

/* What an exit compares (SPEC.md 4.1): largest minus second largest of `size` >= 2 logits. */
static inline int cg_margin(const int8_t *logits, size_t size) {
    int first = INT8_MIN, second = INT8_MIN;
    for (size_t i = 0; i < size; i++) {
        if (logits[i] > first) {
            second = first;
            first = logits[i];
        } else if (logits[i] > second) {
            second = logits[i];
        }
    }
    return first - second;
}

/*
 * Reports the decision of gate number `gate` (its place among the gates, not its unit index) and
 * returns whether to run what it rules, the body or, for an exit, the rest of the network:
 * `decision`, unless the caller forces the gate.
 */
static inline int cg_gate(const cg_hooks *hooks, uint32_t gate, int decision) {
    if (hooks == NULL) {
        return decision;
    }
    if (hooks->decisions != NULL) {
        hooks->decisions[gate] = decision ? 1 : 0;
    }
    if (hooks->force != NULL && hooks->force[gate] != CG_GATE_LEARNED) {
        return hooks->force[gate] == CG_GATE_OPEN;
    }
    return decision;
}

/* Reports that a unit has run and what it left. Belongs after the unit's CG_MARK_END. */
static inline void cg_unit_done(const cg_hooks *hooks, uint32_t unit, const int8_t *output,
                                size_t size) {
    if (hooks != NULL && hooks->unit_done != NULL) {
        hooks->unit_done(hooks->context, unit, output, size);
    }
}

#endif
