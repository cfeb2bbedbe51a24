/* The transforms of the Winograd kernels; cg_dsp_winograd.h says what they compute. */
#include "cg_dsp_winograd.h"

#if defined(__ARM_FEATURE_DSP)

/* C99 promises string literals of 4095 characters only; GCC and Clang take longer ones. */
#pragma GCC diagnostic ignored "-Woverlength-strings"

/* GCC interleaves independent blocks until it runs out of registers; this keeps it from that. */
#define KEEP_APART() __asm volatile("" ::: "memory")

#if defined(CG_DSP_ASM)

/* clang-format off */

/* Loads d0..d5 of a pair, adds 128 to both halves, transforms. */
#define ROWS(ror, at)                                                                              \
    "ldr r6, [r0]\n\tldr r8, [r0, r1, lsl #1]\n\tldr r10, [r0, r1, lsl #2]\n\t"                     \
    "ldr r7, [r2]\n\tldr r9, [r2, r1, lsl #1]\n\tldr r11, [r2, r1, lsl #2]\n\t"                     \
    "sxtab16 r6, r5, r6" ror "\n\tsxtab16 r7, r5, r7" ror "\n\tsxtab16 r8, r5, r8" ror "\n\t"      \
    "sxtab16 r9, r5, r9" ror "\n\tsxtab16 r10, r5, r10" ror "\n\tsxtab16 r11, r5, r11" ror "\n\t"  \
    "lsl r12, r8, #2\n\tssub16 r12, r10, r12\n\t"                                                \
    "lsl lr, r7, #2\n\tssub16 lr, r9, lr\n\t"                                                    \
    "lsl r6, r6, #2\n\tssub16 r6, r6, r8\n\tsadd16 r6, r6, r12\n\tstr r6, [r3, #" at "]\n\t"     \
    "lsl r6, r9, #2\n\tssub16 r11, r11, r6\n\tssub16 r11, r11, lr\n\t"                           \
    "str r11, [r3, #" at " + 20]\n\t"                                                             \
    "sadd16 r6, r12, lr\n\tstr r6, [r3, #" at " + 4]\n\t"                                        \
    "ssub16 r6, r12, lr\n\tstr r6, [r3, #" at " + 8]\n\t"                                        \
    "ssub16 r10, r10, r8\n\tssub16 r9, r9, r7\n\tsadd16 r9, r9, r9\n\t"                          \
    "sadd16 r6, r10, r9\n\tstr r6, [r3, #" at " + 12]\n\t"                                       \
    "ssub16 r6, r10, r9\n\tstr r6, [r3, #" at " + 16]\n\t"

/* Assembly, to keep loads side by side. Halves are not negative, so that a plain shift keeps them
 * apart. Two base addresses reach all six rows with scaled register offsets. */
void cg_dsp_winograd_rows(const int8_t *in, size_t row, uint32_t *to) {
    register const int8_t *from __asm("r0") = in;
    register size_t row_ __asm("r1") = row;
    register const int8_t *next __asm("r2") = in + row;
    register uint32_t *to_ __asm("r3") = to;
    register const int8_t *end __asm("r4") = in + row;
    register uint32_t offset __asm("r5") = 0x00800080;
    __asm volatile(
        "1:\n\t"
        ROWS("", "0")
        ROWS(", ror #8", "24")
        "add r0, r0, #4\n\t"
        "add r2, r2, #4\n\t"
        "add r3, r3, #48\n\t"
        "cmp r0, r4\n\t"
        "bne 1b"
        : "+r"(from), "+r"(next), "+r"(to_)
        : "r"(row_), "r"(end), "r"(offset)
        : "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc", "memory");
}

/* clang-format on */

#else

/* B^T of d0..d5 whose halves are not negative, so that a plain shift keeps them apart. */
static inline void transform_unsigned(uint32_t d0, uint32_t d1, uint32_t d2, uint32_t d3,
                                      uint32_t d4, uint32_t d5, uint32_t *to) {
    const uint32_t a = cg_dsp_subtract(d4, d2 << 2), b = cg_dsp_subtract(d3, d1 << 2);
    to[1] = cg_dsp_add(a, b);
    to[2] = cg_dsp_subtract(a, b);
    to[0] = cg_dsp_add(a, cg_dsp_subtract(d0 << 2, d2));
    to[5] = cg_dsp_subtract(cg_dsp_subtract(d5, d3 << 2), b);
    const uint32_t c = cg_dsp_subtract(d4, d2);
    uint32_t e = cg_dsp_subtract(d3, d1);
    e = cg_dsp_add(e, e);
    to[3] = cg_dsp_add(c, e);
    to[4] = cg_dsp_subtract(c, e);
}

void cg_dsp_winograd_rows(const int8_t *in, size_t row, uint32_t *to) {
    const uint32_t offset = 0x00800080;
    for (const int8_t *const end = in + row; in != end; in += 4, to += 2 * CG_WINDOW) {
        /* Two base addresses reach all six rows with scaled register offsets. */
        const int8_t *const next = in + row;
#define ROWS(widen, to)                                                                            \
    transform_unsigned(                                                                            \
        widen(offset, cg_dsp_load(in)), widen(offset, cg_dsp_load(next)),                          \
        widen(offset, cg_dsp_load(in + 2 * row)), widen(offset, cg_dsp_load(next + 2 * row)),      \
        widen(offset, cg_dsp_load(in + 4 * row)), widen(offset, cg_dsp_load(next + 4 * row)), to)
        ROWS(cg_dsp_widen_even, to);
        KEEP_APART();
        ROWS(cg_dsp_widen_odd, to + CG_WINDOW);
#undef ROWS
    }
}

#endif

/* B^T of d0..d5; results go `step` words apart. */
static inline void transform_signed(uint32_t d0, uint32_t d1, uint32_t d2, uint32_t d3, uint32_t d4,
                                    uint32_t d5, uint32_t *to, size_t step) {
    const uint32_t c = cg_dsp_subtract(d4, d2);
    uint32_t e = cg_dsp_subtract(d3, d1);
    e = cg_dsp_add(e, e);
    to[3 * step] = cg_dsp_add(c, e);
    to[4 * step] = cg_dsp_subtract(c, e);
    const uint32_t f = cg_dsp_subtract(d5, d3);
    to[5 * step] = cg_dsp_subtract(cg_dsp_subtract(f, e), e);
    uint32_t g = cg_dsp_subtract(d0, d2);
    g = cg_dsp_add(g, g);
    to[0] = cg_dsp_add(cg_dsp_add(g, g), c);
    uint32_t h = cg_dsp_add(d2, d2);
    const uint32_t a = cg_dsp_subtract(d4, cg_dsp_add(h, h));
    h = cg_dsp_add(d1, d1);
    const uint32_t b = cg_dsp_subtract(d3, cg_dsp_add(h, h));
    to[step] = cg_dsp_add(a, b);
    to[2 * step] = cg_dsp_subtract(a, b);
}

static inline __attribute__((always_inline)) void transform_columns(const uint32_t *strip,
                                                                    size_t pairs, uint32_t *to) {
    const size_t column = pairs * CG_WINDOW;
    for (int r = 0; r < CG_WINDOW; r++, strip++, to += CG_WINDOW * pairs * CG_TILES) {
        const uint32_t *in = strip;
        uint32_t *out = to;
        for (const uint32_t *const end = in + column; in != end; in += CG_WINDOW, out += CG_TILES) {
            const uint32_t *const right = in + CG_TILE * column;
            transform_signed(in[0], in[column], in[2 * column], in[3 * column], in[4 * column],
                             in[5 * column], out, pairs * CG_TILES);
            KEEP_APART();
            transform_signed(right[0], right[column], right[2 * column], right[3 * column],
                             right[4 * column], right[5 * column], out + 1, pairs * CG_TILES);
        }
    }
}

/* With a constant number of pairs, addresses are immediate offsets: a third faster. */
void cg_dsp_winograd_columns(const uint32_t *strip, size_t pairs, uint32_t *to) {
    switch (pairs) {
    case 2:
        transform_columns(strip, 2, to);
        break;
    case 8:
        transform_columns(strip, 8, to);
        break;
    case 16:
        transform_columns(strip, 16, to);
        break;
    case 32:
        transform_columns(strip, 32, to);
        break;
    default:
        transform_columns(strip, pairs, to);
    }
}

#if defined(CG_DSP_ASM)

/* clang-format off */

#define PUT(value) "str " value ", [r0]\n\tadd r0, r0, r1\n\t"

/* G of h0, h1, h2, which stay as they are, to six positions; x, y and z are used. */
#define WEIGHT_ROW(h0, h1, h2, x, y, z)                                                            \
    PUT(h0)                                                                                        \
    "sadd16 " x ", " h0 ", " h2 "\n\t"                                                             \
    "sadd16 " y ", " x ", " h1 "\n\t" PUT(y)                                                       \
    "ssub16 " y ", " x ", " h1 "\n\t" PUT(y)                                                       \
    "sadd16 " x ", " h2 ", " h2 "\n\tsadd16 " x ", " x ", " x "\n\t"                               \
    "sadd16 " x ", " x ", " h0 "\n\tsadd16 " y ", " h1 ", " h1 "\n\t"                              \
    "sadd16 " z ", " x ", " y "\n\t" PUT(z)                                                        \
    "ssub16 " z ", " x ", " y "\n\t" PUT(z)                                                        \
    PUT(h2)

/* t = g0 + 4 g2, then g0 = g0 + g2. */
#define SUMS(t, g0, g2)                                                                            \
    "sadd16 " t ", " g2 ", " g2 "\n\tsadd16 " t ", " t ", " t "\n\t"                               \
    "sadd16 " t ", " t ", " g0 "\n\tsadd16 " g0 ", " g0 ", " g2 "\n\t"

#define THREE(op, x, y, z, a, b, c)                                                                \
    op " " x ", " x ", " a "\n\t" op " " y ", " y ", " b "\n\t" op " " z ", " z ", " c "\n\t"

#define LOAD_NINE(from)                                                                            \
    "ldr r2, [r11, #" from "]\n\tldr r3, [r11, #" from " + 4]\n\t"                                 \
    "ldr r4, [r11, #" from " + 8]\n\tldr r5, [r11, #" from " + 12]\n\t"                            \
    "ldr r6, [r11, #" from " + 16]\n\tldr r7, [r11, #" from " + 20]\n\t"                           \
    "ldr r8, [r11, #" from " + 24]\n\tldr r9, [r11, #" from " + 28]\n\t"                           \
    "ldr r10, [r11, #" from " + 32]\n\t"

#define SPREAD_NINE(ror)                                                                           \
    "sxtb16 r2, r2" ror "\n\tsxtb16 r3, r3" ror "\n\tsxtb16 r4, r4" ror "\n\t"                     \
    "sxtb16 r5, r5" ror "\n\tsxtb16 r6, r6" ror "\n\tsxtb16 r7, r7" ror "\n\t"                     \
    "sxtb16 r8, r8" ror "\n\tsxtb16 r9, r9" ror "\n\tsxtb16 r10, r10" ror "\n\t"

/*
 * One output channel. Assembly, because the nine weights of a pair stay in registers (r2-r10),
 * with three for what is computed from them; r0 walks over the positions, r1 bytes apart. Bit 0 of
 * `from` says that the second pair of a group is next. Rows 0 and 5 are the weights as they are, so
 * they come first; then g0 becomes g0 + g2, and three registers free g0 + 4 g2.
 */
static void transform_weights(const uint32_t *weights, size_t pairs, uint32_t *to) {
    const uint32_t *from = weights;
    const uint32_t *const end = weights + pairs / 2 * 9;
    register uint32_t *out __asm("r0") = to;
    register size_t step __asm("r1") = pairs * CG_LANES * sizeof(uint32_t);
    __asm volatile(
        "1:\n\t"
        "ldr r11, %[from]\n\t"
        "tst r11, #1\n\t"
        "bne 2f\n\t"
        LOAD_NINE("0") SPREAD_NINE("")
        "add r11, r11, #1\n\t"
        "b 3f\n"
        "2:\n\t"
        LOAD_NINE("-1") SPREAD_NINE(", ror #8")
        "add r11, r11, #35\n"
        "3:\n\t"
        "str r11, %[from]\n\t"
        WEIGHT_ROW("r2", "r3", "r4", "r11", "r12", "lr")
        "add r0, r0, r1, lsl #4\n\tadd r0, r0, r1, lsl #3\n\t"
        WEIGHT_ROW("r8", "r9", "r10", "r11", "r12", "lr")
        "sub r0, r0, r1, lsl #5\n\tadd r0, r0, r1, lsl #1\n\t"
        SUMS("r11", "r2", "r8") SUMS("r8", "r3", "r9") SUMS("r9", "r4", "r10")
        THREE("sadd16", "r2", "r3", "r4", "r5", "r6", "r7")
        WEIGHT_ROW("r2", "r3", "r4", "r10", "r12", "lr")
        THREE("sadd16", "r5", "r6", "r7", "r5", "r6", "r7")
        THREE("ssub16", "r2", "r3", "r4", "r5", "r6", "r7")
        WEIGHT_ROW("r2", "r3", "r4", "r10", "r12", "lr")
        THREE("sadd16", "r11", "r8", "r9", "r5", "r6", "r7")
        WEIGHT_ROW("r11", "r8", "r9", "r10", "r12", "lr")
        THREE("sadd16", "r5", "r6", "r7", "r5", "r6", "r7")
        THREE("ssub16", "r11", "r8", "r9", "r5", "r6", "r7")
        WEIGHT_ROW("r11", "r8", "r9", "r10", "r12", "lr")
        "sub r0, r0, r1, lsl #5\n\tadd r0, r0, r1, lsl #1\n\t"
        "add r0, r0, #16\n\t"
        "ldr r11, %[from]\n\t"
        "ldr r12, %[end]\n\t"
        "cmp r11, r12\n\t"
        "bne.w 1b"
        : [from] "+m"(from), "+r"(out), "+r"(step)
        : [end] "m"(end)
        : "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc",
          "memory");
}

/* clang-format on */

#else

/* Rows 1 to 4 of G: sum and difference of s and g1, then of t and e. */
#define TRANSFORM_WEIGHTS(g0, g1, g2, h1, h2, h3, h4)                                              \
    do {                                                                                           \
        const uint32_t s_ = cg_dsp_add(g0, g2);                                                    \
        (h1) = cg_dsp_add(s_, g1);                                                                 \
        (h2) = cg_dsp_subtract(s_, g1);                                                            \
        const uint32_t e_ = cg_dsp_add(g1, g1);                                                    \
        uint32_t t_ = cg_dsp_add(g2, g2);                                                          \
        t_ = cg_dsp_add(g0, cg_dsp_add(t_, t_));                                                   \
        (h3) = cg_dsp_add(t_, e_);                                                                 \
        (h4) = cg_dsp_subtract(t_, e_);                                                            \
    } while (0)

/* The same in C. */
static void transform_weights(const uint32_t *weights, size_t pairs, uint32_t *to) {
    const size_t step = pairs * CG_LANES;
    for (size_t k = 0; k < pairs; k++, to += CG_LANES) {
        const uint32_t *const w = weights + k / 2 * 9;
        uint32_t rows[CG_WINDOW][3];
        for (int x = 0; x < 3; x++) {
            const uint32_t g0 = cg_dsp_spread(w[x], k % 2), g1 = cg_dsp_spread(w[x + 3], k % 2),
                           g2 = cg_dsp_spread(w[x + 6], k % 2);
            rows[0][x] = g0;
            rows[5][x] = g2;
            TRANSFORM_WEIGHTS(g0, g1, g2, rows[1][x], rows[2][x], rows[3][x], rows[4][x]);
        }
        uint32_t *u = to;
        for (int y = 0; y < CG_WINDOW; y++, u += CG_WINDOW * step) {
            const uint32_t *const g = rows[y];
            u[0] = g[0];
            TRANSFORM_WEIGHTS(g[0], g[1], g[2], u[step], u[2 * step], u[3 * step], u[4 * step]);
            u[5 * step] = g[2];
        }
    }
}

#endif

void cg_dsp_winograd_weights(const uint32_t *weights, size_t pairs, uint32_t *to) {
    for (int lane = 0; lane < CG_LANES; lane++, weights += pairs / 2 * 9, to++) {
        transform_weights(weights, pairs, to);
    }
}

/* 1/9 modulo 2^32 */
#define NINTH 0x38e38e39u

#if defined(CG_DSP_ASM)

/*
 * Assembly, because all 14 registers are needed and GCC spills. Vertically, a column at a time, of
 * whose four results the first stays in a register (r8-r12, lr) and three go to `half`; then
 * horizontally, a row at a time, with requantisation. CG_DSP_SHORT_LOOPS (cg_dsp_mac.c) makes a
 * loop of the columns, so that all of it fits in 1 kB; then the first result goes to `half` too.
 */
#if defined(CG_DSP_SHORT_LOOPS)
#define HALVES CG_TILE
#else
#define HALVES (CG_TILE - 1)
#endif

typedef struct {
    const uint32_t *sums;
    const cg_dsp_channel *channels;
    uint32_t *tile; /* a byte further for every channel */
    uint32_t half[HALVES][CG_WINDOW];
} frame;

/* clang-format off */

/* A^T of a column or row m0..m5, rows scaled by 24, 12, 6, 6: the results are then in m0, m4, m2
 * and m5. r7 is used. `times3` is for m0 and m5, unless they come with it. */
#define INVERT(times3, m0, m1, m2, m3, m4, m5)                                                     \
    "add r7, " m1 ", " m2 "\n\tsub " m1 ", " m1 ", " m2 "\n\t"                                     \
    "add " m2 ", " m3 ", " m4 "\n\tsub " m3 ", " m3 ", " m4 "\n\t"                                 \
    times3(m0) "add " m0 ", " m2 ", " m0 ", lsl #1\n\tsub " m0 ", " m0 ", r7, lsl #2\n\t"          \
    "sub " m4 ", " m3 ", " m1 ", lsl #1\n\t"                                                       \
    "sub " m2 ", " m2 ", r7\n\t"                                                                  \
    times3(m5) "add " m5 ", " m5 ", " m3 "\n\trsb " m5 ", " m1 ", " m5 ", lsl #1\n\t"
#define TIMES3(m) "add " m ", " m ", " m ", lsl #1\n\t"
#define TIMES1(m)

#define COLUMN(times3, m0, j)                                                                              \
    "ldr " m0 ", [r0, #" #j " * 32]\n\tldr r2, [r0, #(6 + " #j ") * 32]\n\t"                       \
    "ldr r3, [r0, #(12 + " #j ") * 32]\n\tldr r4, [r0, #(18 + " #j ") * 32]\n\t"                   \
    "ldr r5, [r0, #(24 + " #j ") * 32]\n\tldr r6, [r0, #(30 + " #j ") * 32]\n\t"                   \
    INVERT(times3, m0, "r2", "r3", "r4", "r5", "r6")

/* The other three results of a column to rows of `half`. */
#define PUT_COLUMN(to, at)                                                                         \
    "str r5, [" to ", #" #at "]\n\tstr r3, [" to ", #24 + " #at "]\n\t"                            \
    "str r6, [" to ", #48 + " #at "]\n\t"

/* cg_dsp_requant of (y / 9) >> shift, which is twice the accumulator; r2-r5 are the channel. */
#define OUTPUT(y, shift, at)                                                                       \
    "mul " y ", " y ", r6\n\t"                                                                     \
    "add " y ", r2, " y ", asr #" #shift "\n\t"                                                    \
    "add r7, r4, " y ", asr #31\n\t"                                                               \
    "smmlar " y ", " y ", r3, r7\n\t"                                                              \
    "asr " y ", " y ", r5\n\t"                                                                     \
    "ssat " y ", #8, " y "\n\t"                                                                    \
    "strb " y ", [r0, #" #at "]\n\t"

#define ROW(times3, s0, s1, s2, at)                                                                        \
    INVERT(times3, "r8", "r9", "r10", "r11", "r12", "lr")                                                  \
    OUTPUT("r8", s0, at) OUTPUT("r12", s1, at + 4) OUTPUT("r10", s2, at + 8)                       \
    OUTPUT("lr", s2, at + 12)

#define NEXT_ROW(at)                                                                               \
    "ldr r8, [r1, #" #at "]\n\tldr r9, [r1, #" #at " + 4]\n\tldr r10, [r1, #" #at " + 8]\n\t"      \
    "ldr r11, [r1, #" #at " + 12]\n\tldr r12, [r1, #" #at " + 16]\n\t"                             \
    "ldr lr, [r1, #" #at " + 20]\n\t"

#if defined(CG_DSP_SHORT_LOOPS)
#define COLUMNS(times3)                                                                            \
    "add r9, r1, #12\n\t"                                                                         \
    "add r10, r9, #24\n"                                                                          \
    "2:\n\t"                                                                                      \
    COLUMN(times3, "r8", 0) "str r8, [r9]\n\t" PUT_COLUMN("r9", 24)                               \
    COLUMN(times3, "r8", 1) "str r8, [r9, #4]\n\t" PUT_COLUMN("r9", 28)                           \
    "add r0, r0, #64\n\t"                                                                         \
    "add r9, r9, #8\n\t"                                                                          \
    "cmp r9, r10\n\t"                                                                             \
    "bne 2b\n\t"                                                                                  \
    "sub r0, r0, #192\n\t"
#define SECOND_ROW 36
#define FIRST_ROW NEXT_ROW(12)
#else
#define COLUMNS(times3)                                                                            \
    COLUMN(times3, "r8", 0) PUT_COLUMN("r1", 12) COLUMN(times3, "r9", 1) PUT_COLUMN("r1", 16)      \
    COLUMN(times3, "r10", 2) PUT_COLUMN("r1", 20) COLUMN(times3, "r11", 3) PUT_COLUMN("r1", 24)    \
    COLUMN(times3, "r12", 4) PUT_COLUMN("r1", 28) COLUMN(times3, "lr", 5) PUT_COLUMN("r1", 32)
#define SECOND_ROW 12
#define FIRST_ROW
#endif

#define OUTPUTS(times3)                                                                            \
    frame f;                                                                                       \
    f.sums = sums;                                                                                 \
    f.channels = channels;                                                                         \
    f.tile = tile;                                                                                 \
    register frame *base __asm("r1") = &f;                                                         \
    __asm volatile(                                                                                \
        "1:\n\t"                                                                                   \
        "ldr r0, [r1]\n\t"                                                                        \
        COLUMNS(times3)                                                                            \
        "add r0, r0, #4\n\t"                                                                       \
        "str r0, [r1]\n\t"                                                                        \
        "ldr r7, [r1, #4]\n\t"                                                                    \
        "ldr r0, [r1, #8]\n\t"                                                                    \
        "ldm r7!, {r2-r5}\n\t"                                                                     \
        "str r7, [r1, #4]\n\t"                                                                    \
        "movw r6, #0x8e39\n\t"                                                                     \
        "movt r6, #0x38e3\n\t"                                                                     \
        FIRST_ROW ROW(times3, 5, 4, 3, 0)                                                          \
        NEXT_ROW(%c[row]) ROW(times3, 4, 3, 2, 16)                                                  \
        NEXT_ROW(%c[row] + 24) ROW(times3, 3, 2, 1, 32)                                             \
        NEXT_ROW(%c[row] + 48) ROW(times3, 3, 2, 1, 48)                                             \
        "add r0, r0, #1\n\t"                                                                       \
        "str r0, [r1, #8]\n\t"                                                                    \
        "tst r0, #3\n\t"                                                                           \
        "bne.w 1b"                                                                                 \
        :                                                                                          \
        : "r"(base), [row] "i"(SECOND_ROW)                                                         \
        : "r0", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc",   \
          "memory")

static void outputs_1(const uint32_t *sums, const cg_dsp_channel *channels, uint32_t *tile) {
    OUTPUTS(TIMES3);
}

static void outputs_3(const uint32_t *sums, const cg_dsp_channel *channels, uint32_t *tile) {
    OUTPUTS(TIMES1);
}

/* clang-format on */
#endif

#define INVERT_C(edge, m0, m1, m2, m3, m4, m5, y0, y1, y2, y3)                                     \
    do {                                                                                           \
        const uint32_t s_ = (m1) + (m2), d_ = (m1) - (m2);                                         \
        const uint32_t t_ = (m3) + (m4), e_ = (m3) - (m4);                                         \
        (y0) = (edge) * (m0) + t_ - 4 * s_;                                                        \
        (y1) = e_ - 2 * d_;                                                                        \
        (y2) = t_ - s_;                                                                            \
        (y3) = (edge) * (m5) + 2 * e_ - d_;                                                        \
    } while (0)

/* The same in C, and for every requantisation. */
static void outputs_any(const uint32_t *sums, const cg_dsp_channel *channels, int scale,
                        const cg_conv2d_s8 *p, int8_t *out) {
    const uint32_t edge = 6 / (uint32_t)scale;
    static const uint8_t power[CG_TILE] = {3, 2, 1, 1};
    for (int lane = 0; lane < CG_LANES; lane++, sums++, channels++, out++) {
        uint32_t half[CG_TILE][CG_WINDOW];
        for (int j = 0; j < CG_WINDOW; j++) {
            enum { DOWN = CG_BLOCK * CG_WINDOW };
            const uint32_t *const m = sums + j * CG_BLOCK;
            INVERT_C(edge, m[0], m[DOWN], m[2 * DOWN], m[3 * DOWN], m[4 * DOWN], m[5 * DOWN],
                     half[0][j], half[1][j], half[2][j], half[3][j]);
        }
        for (int r = 0; r < CG_TILE; r++) {
            const uint32_t *const h = half[r];
            uint32_t y[CG_TILE];
            INVERT_C(edge, h[0], h[1], h[2], h[3], h[4], h[5], y[0], y[1], y[2], y[3]);
            for (int x = 0; x < CG_TILE; x++) {
                const int32_t twice =
                    ((int32_t)(y[x] * NINTH) >> (power[r] + power[x] - 1)) + channels->bias2;
                out[(r * CG_TILE + x) * CG_LANES] = p == NULL
                                                        ? cg_dsp_requant(twice, channels)
                                                        : cg_dsp_requant_any(twice, channels, p);
            }
        }
    }
}

void cg_dsp_winograd_outputs(const uint32_t *sums, const cg_dsp_channel *channels, int scale,
                             const cg_conv2d_s8 *p, uint32_t *tile) {
#if defined(CG_DSP_ASM)
    if (p == NULL && scale == 1) {
        outputs_1(sums, channels, tile);
        return;
    }
    if (p == NULL) {
        outputs_3(sums, channels, tile);
        return;
    }
#endif
    outputs_any(sums, channels, scale, p, (int8_t *)tile);
}

#endif
