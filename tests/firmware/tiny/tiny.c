/*
 * stem (conv 3x3, 2 -> 4) -> gate (mean, conv 4 -> 1) -> body (conv 3x3, added to the stem's
 * output if the gate is open) -> head (mean, conv 4 -> 3).
 *
 * Arena: the stream at 0, F at 128, means at 248, the gate's logit at 252.
 */
#include "tiny.h"

#include "cg_marker.h"
#include "cg_model.h"

static const int8_t stem_weights[72] = {
    3,   -7, 12, 5,  -9, 8,  1,  -2, 6,  11, -4, 7,  -13, 2, 9, -5, 10, -8, 4, -6, 13, -1, 0, 5,
    -11, 3,  8,  -7, 2,  6,  -3, 9,  -5, 1,  7,  -9, 12,  4, 0, 8,  -2, 6,  3, -4, 10, 7,  5, -6,
    9,   2,  -8, 11, -1, 13, 4,  -7, 6,  0,  5,  -3, 8,   1, 7, -9, 2,  12, 6, -5, 3,  4,  9, -2,
};
static const int8_t body_weights[144] = {
    5,  -3, 8,  1, -7, 2,  6,  -4, 9,  0,  -2, 7,  3,  -8, 4, 1,  -5, 6,  2,  -9, 8, 3, -1, 5,
    7,  -6, 0,  4, -2, 9,  1,  -3, 6,  -7, 5,  2,  8,  -4, 3, -1, 7,  0,  -9, 6,  4, 2, -5, 8,
    1,  3,  -6, 9, -2, 7,  5,  -8, 4,  0,  6,  -1, 3,  -7, 2, 8,  -4, 5,  9,  -3, 1, 6, -2, 7,
    -5, 4,  8,  0, 3,  -9, 6,  2,  -1, 7,  5,  -6, 4,  -8, 9, 1,  -3, 2,  7,  -4, 6, 5, 0,  8,
    -7, 3,  -2, 9, 4,  1,  -6, 5,  8,  -1, 2,  7,  -9, 3,  6, 0,  -5, 4,  -8, 2,  9, 1, -3, 7,
    6,  -4, 5,  8, -2, 3,  0,  -7, 1,  9,  -6, 4,  2,  -5, 7, 3,  8,  -1, 6,  -9, 5, 2, 4,  -3,
};
static const int8_t gate_weights[4] = {90, -60, 40, -100};
static const int8_t head_weights[12] = {50, -30, 70, 10, -20, 80, -60, 40, 30, 20, -50, 60};
static const int32_t bias4[4] = {200, -150, 90, 0};
static const int32_t gate_bias[1] = {1500};
static const int32_t head_bias[3] = {-300, 100, 250};
static const int32_t multiplier4[4] = {1518500250, 1288490189, 1932735283, 1073741824};
static const int8_t shift4[4] = {-5, -6, -5, -4};
static const int8_t gate_shift[1] = {-6};
static const int8_t head_shift[3] = {-5, -5, -5};

static const cg_conv2d_s8 stem_op = {
    .in_height = 6,
    .in_width = 5,
    .in_channels = 2,
    .out_height = 6,
    .out_width = 5,
    .out_channels = 4,
    .kernel_height = 3,
    .kernel_width = 3,
    .stride = 1,
    .pad_top = 1,
    .pad_left = 1,
    .in_zero_point = -3,
    .out_zero_point = -128,
    .clamp_min = -128,
    .clamp_max = 127,
    .weights = stem_weights,
    .bias = bias4,
    .multiplier = multiplier4,
    .shift = shift4,
};
static const cg_mean_s8 mean_op = {
    .height = 6,
    .width = 5,
    .channels = 4,
    .in_zero_point = -128,
    .out_zero_point = -128,
    .multiplier = 1145324612,
    .shift = -3,
};
static const cg_conv2d_s8 gate_op = {
    .in_height = 1,
    .in_width = 1,
    .in_channels = 4,
    .out_height = 1,
    .out_width = 1,
    .out_channels = 1,
    .kernel_height = 1,
    .kernel_width = 1,
    .stride = 1,
    .in_zero_point = -128,
    .out_zero_point = 0,
    .clamp_min = -128,
    .clamp_max = 127,
    .weights = gate_weights,
    .bias = gate_bias,
    .multiplier = multiplier4,
    .shift = gate_shift,
};
static const cg_conv2d_s8 body_op = {
    .in_height = 6,
    .in_width = 5,
    .in_channels = 4,
    .out_height = 6,
    .out_width = 5,
    .out_channels = 4,
    .kernel_height = 3,
    .kernel_width = 3,
    .stride = 1,
    .pad_top = 1,
    .pad_left = 1,
    .in_zero_point = -128,
    .out_zero_point = 0,
    .clamp_min = -128,
    .clamp_max = 127,
    .weights = body_weights,
    .bias = bias4,
    .multiplier = multiplier4,
    .shift = shift4,
};
static const cg_residual_add_s8 add_op = {.size = 120};
static const cg_conv2d_s8 head_op = {
    .in_height = 1,
    .in_width = 1,
    .in_channels = 4,
    .out_height = 1,
    .out_width = 1,
    .out_channels = 3,
    .kernel_height = 1,
    .kernel_width = 1,
    .stride = 1,
    .in_zero_point = -128,
    .out_zero_point = 4,
    .clamp_min = -128,
    .clamp_max = 127,
    .weights = head_weights,
    .bias = head_bias,
    .multiplier = multiplier4,
    .shift = head_shift,
};

static cg_status tiny_run(const int8_t *input, int8_t *output, void *arena, const cg_hooks *hooks) {
    int8_t *const a = arena;

    CG_TRY(cg_check(input, output, arena));
    CG_MARK_BEGIN(CG_MARK_INFERENCE);

    CG_MARK_BEGIN(0);
    CG_TRY(cg_conv2d_s8__ref(&stem_op, input, a, NULL));
    CG_MARK_END(0);
    cg_unit_done(hooks, 0, a, 120);

    CG_MARK_BEGIN(1);
    CG_TRY(cg_mean_s8__ref(&mean_op, a, a + 248, NULL));
    CG_TRY(cg_conv2d_s8__ref(&gate_op, a + 248, a + 252, NULL));
    int open = a[252] > -7;
    CG_MARK_END(1);
    cg_unit_done(hooks, 1, a + 252, 1);
    open = cg_gate(hooks, 0, open);

    if (open) {
        CG_MARK_BEGIN(2);
        /* inject */
        CG_TRY(cg_conv2d_s8__ref(&body_op, a, a + 128, NULL));
        CG_TRY(cg_residual_add_s8__ref(&add_op, a + 128, a, NULL));
        CG_MARK_END(2);
        cg_unit_done(hooks, 2, a, 120);
    }

    CG_MARK_BEGIN(3);
    CG_TRY(cg_mean_s8__ref(&mean_op, a, a + 248, NULL));
    CG_TRY(cg_conv2d_s8__ref(&head_op, a + 248, output, NULL));
    CG_MARK_END(3);
    cg_unit_done(hooks, 3, output, 3);

    CG_MARK_END(CG_MARK_INFERENCE);
    return CG_OK;
}

const cg_model tiny_model = {
    .abi = CG_ABI_VERSION,
    .name = "tiny",
    .plan_sha256 = TINY_PLAN_SHA256,
    .input_size = TINY_INPUT_SIZE,
    .output_size = TINY_OUTPUT_SIZE,
    .arena_size = TINY_ARENA_SIZE,
    .units = TINY_UNITS,
    .gates = TINY_GATES,
    .run = tiny_run,
};
