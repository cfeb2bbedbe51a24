/* The transforms of the Winograd kernels; cg_dsp_winograd.h says what they compute. */
#include "cg_dsp_winograd.h"

#if defined(__ARM_FEATURE_DSP)

/* GCC interleaves independent blocks until it runs out of registers; this keeps it from that. */
#define KEEP_APART() __asm volatile("" ::: "memory")

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

/* The same for signed halves; results go `step` words apart. */
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

void cg_dsp_winograd_columns(const uint32_t *strip, size_t pairs, uint32_t *to) {
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

/* Rows 1 to 4 of G: sum and difference of s and d, then of t and e. */
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

void cg_dsp_winograd_weights(const uint32_t *weights, size_t pairs, uint32_t *to) {
    const size_t step = pairs * CG_LANES;
    for (int lane = 0; lane < CG_LANES; lane++, to++) {
        uint32_t *group = to;
        for (const uint32_t *const end = weights + pairs / 2 * 9; weights != end;
             weights += 9, group += 2 * CG_LANES) {
            uint32_t rows[CG_WINDOW][3][2]; /* vertically transformed; two pairs side by side */
            for (int x = 0; x < 3; x++) {
                for (int odd = 0; odd < 2; odd++) {
                    const uint32_t g0 = cg_dsp_spread(weights[x], odd),
                                   g1 = cg_dsp_spread(weights[x + 3], odd),
                                   g2 = cg_dsp_spread(weights[x + 6], odd);
                    rows[0][x][odd] = g0;
                    rows[5][x][odd] = g2;
                    TRANSFORM_WEIGHTS(g0, g1, g2, rows[1][x][odd], rows[2][x][odd], rows[3][x][odd],
                                      rows[4][x][odd]);
                    KEEP_APART();
                }
            }
            uint32_t *out = group;
            for (int y = 0; y < CG_WINDOW; y++, out += CG_WINDOW * step) {
                for (int odd = 0; odd < 2; odd++) {
                    uint32_t *u = out + odd * CG_LANES;
                    const uint32_t g0 = rows[y][0][odd], g1 = rows[y][1][odd], g2 = rows[y][2][odd];
                    u[0] = g0;
                    u[5 * step] = g2;
                    TRANSFORM_WEIGHTS(g0, g1, g2, u[step], u[2 * step], u[3 * step], u[4 * step]);
                    KEEP_APART();
                }
            }
        }
    }
}

/* 1/9 modulo 2^32 */
#define NINTH 0x38e38e39u

#if defined(CG_DSP_ASM)

/* C99 promises string literals of 4095 characters only; GCC and Clang take longer ones. */
#pragma GCC diagnostic ignored "-Woverlength-strings"

/*
 * Assembly, because all 14 registers are needed and GCC spills. Vertically, a column at a time, of
 * whose four results the first stays in a register (r8-r12, lr) and three go to `half`; then
 * horizontally, a row at a time, with requantisation.
 */
typedef struct {
    uint32_t half[3][CG_WINDOW];
    const uint32_t *sums;
    const cg_dsp_channel *channels;
    uint32_t *tile; /* a byte further for every channel */
} frame;

/* clang-format off */

/* A^T of a column or row m0..m5, rows scaled by 24, 12, 6, 6: the results are then in m0, m4, m2
 * and m5. r7 is used. */
#define INVERT(m0, m1, m2, m3, m4, m5)                                                             \
    "add r7, " m1 ", " m2 "\n\tsub " m1 ", " m1 ", " m2 "\n\t"                                     \
    "add " m2 ", " m3 ", " m4 "\n\tsub " m3 ", " m3 ", " m4 "\n\t"                                 \
    "add " m0 ", " m0 ", " m0 ", lsl #1\n\tadd " m0 ", " m2 ", " m0 ", lsl #1\n\t"                 \
    "sub " m0 ", " m0 ", r7, lsl #2\n\t"                                                           \
    "sub " m4 ", " m3 ", " m1 ", lsl #1\n\t"                                                       \
    "sub " m2 ", " m2 ", r7\n\t"                                                                   \
    "add " m5 ", " m5 ", " m5 ", lsl #1\n\tadd " m5 ", " m5 ", " m3 "\n\t"                         \
    "rsb " m5 ", " m1 ", " m5 ", lsl #1\n\t"

#define COLUMN(m0, j)                                                                              \
    "ldr " m0 ", [r0, #" #j " * 32]\n\tldr r2, [r0, #(6 + " #j ") * 32]\n\t"                       \
    "ldr r3, [r0, #(12 + " #j ") * 32]\n\tldr r4, [r0, #(18 + " #j ") * 32]\n\t"                   \
    "ldr r5, [r0, #(24 + " #j ") * 32]\n\tldr r6, [r0, #(30 + " #j ") * 32]\n\t"                   \
    INVERT(m0, "r2", "r3", "r4", "r5", "r6")                                                       \
    "str r5, [r1, #" #j " * 4]\n\tstr r3, [r1, #24 + " #j " * 4]\n\t"                              \
    "str r6, [r1, #48 + " #j " * 4]\n\t"

/* cg_dsp_requant of (y / 9) >> shift, which is twice the accumulator; r2-r5 are the channel. */
#define OUTPUT(y, shift, at)                                                                       \
    "mul " y ", " y ", r6\n\t"                                                                     \
    "add " y ", r2, " y ", asr #" #shift "\n\t"                                                    \
    "add r7, r4, " y ", asr #31\n\t"                                                               \
    "smmlar " y ", " y ", r3, r7\n\t"                                                              \
    "asr " y ", " y ", r5\n\t"                                                                     \
    "ssat " y ", #8, " y "\n\t"                                                                    \
    "strb " y ", [r0, #" #at "]\n\t"

#define ROW(s0, s1, s2, at)                                                                        \
    INVERT("r8", "r9", "r10", "r11", "r12", "lr")                                                  \
    OUTPUT("r8", s0, at) OUTPUT("r12", s1, at + 4) OUTPUT("r10", s2, at + 8)                       \
    OUTPUT("lr", s2, at + 12)

#define NEXT_ROW(at)                                                                               \
    "ldr r8, [r1, #" #at "]\n\tldr r9, [r1, #" #at " + 4]\n\tldr r10, [r1, #" #at " + 8]\n\t"      \
    "ldr r11, [r1, #" #at " + 12]\n\tldr r12, [r1, #" #at " + 16]\n\t"                             \
    "ldr lr, [r1, #" #at " + 20]\n\t"

static void outputs_fast(const uint32_t *sums, const cg_dsp_channel *channels, uint32_t *tile) {
    frame f;
    f.sums = sums;
    f.channels = channels;
    f.tile = tile;
    register frame *base __asm("r1") = &f;
    __asm volatile(
        "1:\n\t"
        "ldr r0, [r1, #72]\n\t"
        COLUMN("r8", 0) COLUMN("r9", 1) COLUMN("r10", 2)
        COLUMN("r11", 3) COLUMN("r12", 4) COLUMN("lr", 5)
        "add r0, r0, #4\n\t"
        "str r0, [r1, #72]\n\t"
        "ldr r7, [r1, #76]\n\t"
        "ldr r0, [r1, #80]\n\t"
        "ldm r7!, {r2-r5}\n\t"
        "str r7, [r1, #76]\n\t"
        "movw r6, #0x8e39\n\t"
        "movt r6, #0x38e3\n\t"
        ROW(5, 4, 3, 0)
        NEXT_ROW(0) ROW(4, 3, 2, 16)
        NEXT_ROW(24) ROW(3, 2, 1, 32)
        NEXT_ROW(48) ROW(3, 2, 1, 48)
        "add r0, r0, #1\n\t"
        "str r0, [r1, #80]\n\t"
        "tst r0, #3\n\t"
        "bne.w 1b"
        :
        : "r"(base)
        : "r0", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "cc",
          "memory");
}

/* clang-format on */
#endif

#define INVERT_C(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3)                                           \
    do {                                                                                           \
        const uint32_t s_ = (m1) + (m2), d_ = (m1) - (m2);                                         \
        const uint32_t t_ = (m3) + (m4), e_ = (m3) - (m4);                                         \
        (y0) = 6 * (m0) + t_ - 4 * s_;                                                             \
        (y1) = e_ - 2 * d_;                                                                        \
        (y2) = t_ - s_;                                                                            \
        (y3) = 6 * (m5) + 2 * e_ - d_;                                                             \
    } while (0)

/* The same in C, and for every requantisation. */
static void outputs_any(const uint32_t *sums, const cg_dsp_channel *channels, const cg_conv2d_s8 *p,
                        int8_t *out) {
    static const uint8_t scale[CG_TILE] = {3, 2, 1, 1};
    for (int lane = 0; lane < CG_LANES; lane++, sums++, channels++, out++) {
        uint32_t half[CG_TILE][CG_WINDOW];
        for (int j = 0; j < CG_WINDOW; j++) {
            enum { DOWN = CG_BLOCK * CG_WINDOW };
            const uint32_t *const m = sums + j * CG_BLOCK;
            INVERT_C(m[0], m[DOWN], m[2 * DOWN], m[3 * DOWN], m[4 * DOWN], m[5 * DOWN], half[0][j],
                     half[1][j], half[2][j], half[3][j]);
        }
        for (int r = 0; r < CG_TILE; r++) {
            const uint32_t *const h = half[r];
            uint32_t y[CG_TILE];
            INVERT_C(h[0], h[1], h[2], h[3], h[4], h[5], y[0], y[1], y[2], y[3]);
            for (int x = 0; x < CG_TILE; x++) {
                const int32_t twice =
                    ((int32_t)(y[x] * NINTH) >> (scale[r] + scale[x] - 1)) + channels->bias2;
                out[(r * CG_TILE + x) * CG_LANES] = p == NULL
                                                        ? cg_dsp_requant(twice, channels)
                                                        : cg_dsp_requant_any(twice, channels, p);
            }
        }
    }
}

void cg_dsp_winograd_outputs(const uint32_t *sums, const cg_dsp_channel *channels,
                             const cg_conv2d_s8 *p, uint32_t *tile) {
#if defined(CG_DSP_ASM)
    if (p == NULL) {
        outputs_fast(sums, channels, tile);
        return;
    }
#endif
    outputs_any(sums, channels, p, (int8_t *)tile);
}

#endif
