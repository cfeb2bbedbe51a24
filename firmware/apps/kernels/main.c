/*
 * Runs kernels on cases from a byte stream, on the host and on a target alike.
 *
 * A case is: row u32, count u32, `count` int32 parameters, then for each array its size in bytes
 * u32 and its bytes. Rows are those of cg_kernels.inc, in order; the row after the last is
 * cg_requant. The answer is: status u32, the scratch bytes asked for u32, size u32, the output.
 */
#include "cg_marker.h"
#include "cg_port.h"
#include "cg_requant.h"
#include "cgate.h"

#include <stdalign.h>
#include <string.h>

#define KERNEL(op, variant) ROW_##op##__##variant,
enum {
#define CG_KERNEL(op, variant, needs) KERNEL(op, variant)
#include "cg_kernels.inc"
#undef CG_KERNEL
    ROW_requant,
};

/* Room for one map, and for one array of constants. A benchmark of large layers needs more. */
#ifndef BUFFER
#define BUFFER (1 << 16)
#endif
#ifndef CONSTANTS
#define CONSTANTS BUFFER
#endif
/* Where constants are when a kernel's waits for the flash are to be seen: an attribute. */
#ifndef CONSTANTS_IN
#define CONSTANTS_IN
#endif
enum { MAX_PARAMETERS = 32, MAPS = 2, BUFFERS = 7, GUARD = 32 };

static int32_t parameters[MAX_PARAMETERS];
static size_t next_parameter;
static alignas(CG_ARENA_ALIGN) uint8_t maps[MAPS][BUFFER];
static alignas(CG_ARENA_ALIGN) CONSTANTS_IN uint8_t constants[BUFFERS - MAPS][CONSTANTS];
static struct {
    uint8_t *data;
    uint32_t size;
} arrays[BUFFERS];
static uint8_t output[GUARD + BUFFER + GUARD];
static alignas(CG_ARENA_ALIGN) uint8_t scratch[GUARD + BUFFER + GUARD];

static int read_u32(uint32_t *value) {
    return cg_port_read(value, sizeof *value) == sizeof *value;
}

static void need(int condition) {
    if (!condition) {
        cg_port_text("bad case\n");
        cg_port_exit(2);
    }
}

/* An array ends where its buffer ends, so that the address sanitizer sees a read beyond it. */
static void *read_array(unsigned i) {
    const uint32_t room = i < MAPS ? BUFFER : CONSTANTS;
    uint8_t *const start = i < MAPS ? maps[i] : constants[i - MAPS];
    need(read_u32(&arrays[i].size) && arrays[i].size <= room);
    arrays[i].data = start + (room - arrays[i].size);
    need(cg_port_read(arrays[i].data, arrays[i].size) == arrays[i].size);
    return arrays[i].data;
}

static int32_t next(void) {
    return parameters[next_parameter++];
}

/* The first array is the input, the second what the output holds before. */
static const int8_t *read_input(void) {
    const int8_t *input = read_array(0);
    memset(output, 0xa5, sizeof output);
    memset(scratch, 0xa5, sizeof scratch);
    read_array(1);
    memcpy(output + GUARD, arrays[1].data, arrays[1].size);
    return input;
}

static void answer(cg_status status, size_t scratch_size) {
    uint32_t head[3] = {(uint32_t)status, (uint32_t)scratch_size, arrays[1].size};
    need(scratch_size <= BUFFER);
    for (size_t i = 0; i < GUARD; i++) {
        if (output[i] != 0xa5 || output[GUARD + arrays[1].size + i] != 0xa5) {
            head[0] = UINT32_MAX; /* written outside the output */
        }
        if (scratch[i] != 0xa5 || scratch[GUARD + scratch_size + i] != 0xa5) {
            head[0] = UINT32_MAX - 1; /* written outside the scratch memory */
        }
    }
    cg_port_write(head, sizeof head);
    cg_port_write(output + GUARD, arrays[1].size);
}

#define SCRATCH(size) ((size) == 0 ? NULL : scratch + GUARD)

typedef cg_status conv2d_s8(const cg_conv2d_s8 *, const int8_t *, int8_t *, void *);
typedef size_t conv2d_s8_scratch(const cg_conv2d_s8 *);

static void run_conv2d_s8(conv2d_s8 *kernel, conv2d_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    cg_conv2d_s8 p = {
        .in_height = (uint16_t)next(),
        .in_width = (uint16_t)next(),
        .in_channels = (uint16_t)next(),
        .out_height = (uint16_t)next(),
        .out_width = (uint16_t)next(),
        .out_channels = (uint16_t)next(),
        .kernel_height = (uint8_t)next(),
        .kernel_width = (uint8_t)next(),
        .stride = (uint8_t)next(),
        .pad_top = (uint8_t)next(),
        .pad_left = (uint8_t)next(),
        .in_zero_point = (int16_t)next(),
        .out_zero_point = (int16_t)next(),
        .clamp_min = (int8_t)next(),
        .clamp_max = (int8_t)next(),
    };
    p.weights = read_array(2);
    p.bias = read_array(3);
    p.multiplier = read_array(4);
    p.shift = read_array(5);
    p.packed = read_array(6);
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

static void run_depthwise_conv2d_s8(conv2d_s8 *kernel, conv2d_s8_scratch *scratch_size) {
    run_conv2d_s8(kernel, scratch_size);
}

typedef cg_status pool2d_s8(const cg_pool2d_s8 *, const int8_t *, int8_t *, void *);
typedef size_t pool2d_s8_scratch(const cg_pool2d_s8 *);

static void run_max_pool2d_s8(pool2d_s8 *kernel, pool2d_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    const cg_pool2d_s8 p = {
        .in_height = (uint16_t)next(),
        .in_width = (uint16_t)next(),
        .channels = (uint16_t)next(),
        .out_height = (uint16_t)next(),
        .out_width = (uint16_t)next(),
        .size_height = (uint16_t)next(),
        .size_width = (uint16_t)next(),
        .stride = (uint8_t)next(),
        .pad_top = (uint8_t)next(),
        .pad_left = (uint8_t)next(),
        .clamp_min = (int8_t)next(),
        .clamp_max = (int8_t)next(),
    };
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

static void run_avg_pool2d_s8(pool2d_s8 *kernel, pool2d_s8_scratch *scratch_size) {
    run_max_pool2d_s8(kernel, scratch_size);
}

typedef cg_status mean_s8(const cg_mean_s8 *, const int8_t *, int8_t *, void *);
typedef size_t mean_s8_scratch(const cg_mean_s8 *);

static void run_mean_s8(mean_s8 *kernel, mean_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    const cg_mean_s8 p = {
        .height = (uint16_t)next(),
        .width = (uint16_t)next(),
        .channels = (uint16_t)next(),
        .in_zero_point = (int16_t)next(),
        .out_zero_point = (int16_t)next(),
        .multiplier = next(),
        .shift = (int8_t)next(),
    };
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

typedef cg_status mean_max_s8(const cg_mean_max_s8 *, const int8_t *, int8_t *, void *);
typedef size_t mean_max_s8_scratch(const cg_mean_max_s8 *);

static void run_mean_max_s8(mean_max_s8 *kernel, mean_max_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    const cg_mean_max_s8 p = {
        .height = (uint16_t)next(),
        .width = (uint16_t)next(),
        .channels = (uint16_t)next(),
        .zero_point = (int16_t)next(),
        .multiplier = next(),
        .shift = (int8_t)next(),
    };
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

typedef cg_status shortcut_pad_s8(const cg_shortcut_pad_s8 *, const int8_t *, int8_t *, void *);
typedef size_t shortcut_pad_s8_scratch(const cg_shortcut_pad_s8 *);

static void run_shortcut_pad_s8(shortcut_pad_s8 *kernel, shortcut_pad_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    const cg_shortcut_pad_s8 p = {
        .in_height = (uint16_t)next(),
        .in_width = (uint16_t)next(),
        .in_channels = (uint16_t)next(),
        .out_channels = (uint16_t)next(),
        .channels_before = (uint16_t)next(),
        .stride = (uint8_t)next(),
        .in_zero_point = (int16_t)next(),
        .out_zero_point = (int16_t)next(),
        .multiplier = next(),
        .shift = (int8_t)next(),
    };
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

typedef cg_status residual_add_s8(const cg_residual_add_s8 *, const int8_t *, int8_t *, void *);
typedef size_t residual_add_s8_scratch(const cg_residual_add_s8 *);

static void run_residual_add_s8(residual_add_s8 *kernel, residual_add_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    const cg_residual_add_s8 p = {.size = (uint32_t)next()};
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

typedef cg_status add_s8(const cg_add_s8 *, const int8_t *, int8_t *, void *);
typedef size_t add_s8_scratch(const cg_add_s8 *);

static void run_add_s8(add_s8 *kernel, add_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    const cg_add_s8 p = {
        .size = (uint32_t)next(),
        .in_zero_point = (int16_t)next(),
        .stream_zero_point = (int16_t)next(),
        .out_zero_point = (int16_t)next(),
        .clamp_min = (int8_t)next(),
        .clamp_max = (int8_t)next(),
        .in_multiplier = next(),
        .stream_multiplier = next(),
        .out_multiplier = next(),
        .in_shift = (int8_t)next(),
        .stream_shift = (int8_t)next(),
        .out_shift = (int8_t)next(),
    };
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

typedef cg_status softmax_s8(const cg_softmax_s8 *, const int8_t *, int8_t *, void *);
typedef size_t softmax_s8_scratch(const cg_softmax_s8 *);

static void run_softmax_s8(softmax_s8 *kernel, softmax_s8_scratch *scratch_size) {
    const int8_t *input = read_input();
    cg_softmax_s8 p = {.rows = (uint32_t)next(), .depth = (uint16_t)next()};
    p.exponentials = read_array(2);
    const size_t size = scratch_size(&p);
    CG_MARK_BEGIN(CG_MARK_INFERENCE);
    const cg_status status = kernel(&p, input, (int8_t *)output + GUARD, SCRATCH(size));
    CG_MARK_END(CG_MARK_INFERENCE);
    answer(status, size);
}

/* Arrays: accumulators, room for the results, multipliers, shifts; all int32. */
static void run_requant(void) {
    const int8_t *acc = read_input();
    read_array(2);
    read_array(3);
    for (size_t i = 0; i < arrays[1].size; i += sizeof(int32_t)) {
        int32_t a, multiplier, shift;
        memcpy(&a, acc + i, sizeof a);
        memcpy(&multiplier, arrays[2].data + i, sizeof multiplier);
        memcpy(&shift, arrays[3].data + i, sizeof shift);
        const int32_t result = cg_requant(a, multiplier, shift);
        memcpy(output + GUARD + i, &result, sizeof result);
    }
    answer(CG_OK, 0);
}

int main(void) {
    uint32_t row, count;
    cg_port_open();
    while (read_u32(&row) && read_u32(&count)) {
        need(count <= MAX_PARAMETERS);
        need(cg_port_read(parameters, count * sizeof(int32_t)) == count * sizeof(int32_t));
        next_parameter = 0;
        switch (row) {
/* A new operation without a run_<op> here does not compile. Kernels that this target cannot run are
 * bad cases. The markers let the emulator's plugin count a kernel's instructions. */
#define CG_KERNEL(op, variant, needs)                                                              \
    case ROW_##op##__##variant:                                                                    \
        CG_IF_##needs(run_##op(cg_##op##__##variant, cg_##op##__##variant##_scratch); break;)      \
            need(0);                                                                               \
        break;
#include "cg_kernels.inc"
#undef CG_KERNEL
        case ROW_requant:
            run_requant();
            break;
        default:
            need(0);
        }
    }
    return 0;
}
