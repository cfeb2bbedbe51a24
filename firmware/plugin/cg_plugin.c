/*
 * QEMU plugin: counts executed instructions between markers (SPEC.md, section 10), exactly.
 *
 * One callback per translation block adds the block's instructions on entry. A marker inside the
 * block then takes off what follows it, so that a region is exact to one instruction wherever QEMU
 * puts block boundaries. Markers are not counted.
 *
 * Usage: -plugin libcg_plugin.so,out=FILE. FILE gets one record per end of a region, in order, and
 * at exit one per region that is still open, outermost first: after a crash, the last one tells
 * where it happened.
 */
#include "qemu_plugin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REGIONS = 256, INFERENCE = 255 };
enum { RECORD_END = 0, RECORD_OPEN = 1 };

/* In the byte order of the machine that runs QEMU. */
typedef struct {
    uint32_t kind;
    uint32_t id;
    uint64_t instructions;
} record;

typedef struct {
    uint8_t hint;  /* the last byte of the instruction */
    uint64_t tail; /* instructions of the block after this one, markers left out */
} marker;

/* Never freed: QEMU keeps pointers to blocks for as long as it runs. */
typedef struct {
    uint64_t instructions;
    marker markers[];
} block;

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;
QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
                                           int argc, char **argv);

static FILE *out;
static uint64_t executed;
static unsigned group; /* id / 32, from the first instruction of a marker */
/* Open regions, outermost first. */
static struct {
    unsigned id;
    uint64_t start;
} open_regions[REGIONS];
static size_t open_count;

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) {
        fputs("cgate plugin: out of memory\n", stderr);
        exit(EXIT_FAILURE);
    }
    return memory;
}

static void write_record(uint32_t kind, uint32_t id, uint64_t instructions) {
    const record r = {kind, id, instructions};
    if (fwrite(&r, sizeof r, 1, out) != 1) {
        fputs("cgate plugin: cannot write the counts\n", stderr);
        exit(EXIT_FAILURE);
    }
}

/* The place of an open region, or open_count. */
static size_t find(unsigned id) {
    size_t place = 0;
    while (place < open_count && open_regions[place].id != id) {
        place++;
    }
    return place;
}

static void begin(unsigned id, uint64_t now) {
    /* A region that was left by an early return ends without a record, with all inside it. A new
     * inference leaves everything. */
    open_count = id == INFERENCE ? 0 : find(id);
    open_regions[open_count].id = id;
    open_regions[open_count].start = now;
    open_count++;
}

static void end(unsigned id, uint64_t now) {
    const size_t place = find(id);
    if (place < open_count) {
        write_record(RECORD_END, id, now - open_regions[place].start);
        open_count = place;
    }
}

static void on_block(unsigned int cpu, void *context) {
    (void)cpu;
    const block *b = context;
    executed += b->instructions;
}

static void on_marker(unsigned int cpu, void *context) {
    (void)cpu;
    const marker *m = context;
    const unsigned low = m->hint & 31;
    switch (m->hint >> 5) {
    case 4: /* 80..9f */
        group = low;
        break;
    case 5: /* a0..bf */
        begin((group * 32 + low) % REGIONS, executed - m->tail);
        break;
    default: /* c0..df */
        end((group * 32 + low) % REGIONS, executed - m->tail);
        break;
    }
}

/*
 * The last byte of a marker instruction, or 0. Thumb: two little-endian halfwords. The size may be
 * more than 4, because QEMU peeks at what follows the last instruction before the end of a page and
 * then reports those bytes too.
 */
static uint8_t hint_of(const struct qemu_plugin_insn *instruction) {
    static const uint8_t hint[3] = {0xaf, 0xf3};
    const uint8_t *bytes = qemu_plugin_insn_data(instruction);
    if (qemu_plugin_insn_size(instruction) < 4 || memcmp(bytes, hint, 2) != 0 || bytes[3] != 0x80 ||
        bytes[2] < 0x80 || bytes[2] > 0xdf) {
        return 0;
    }
    return bytes[2];
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t count = qemu_plugin_tb_n_insns(tb);
    size_t markers = 0;
    for (size_t i = 0; i < count; i++) {
        markers += hint_of(qemu_plugin_tb_get_insn(tb, i)) != 0;
    }
    block *b = allocate(sizeof *b + markers * sizeof b->markers[0]);
    b->instructions = count - markers;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, b);

    marker *m = b->markers;
    uint64_t before = 0;
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t hint = hint_of(instruction);
        if (hint == 0) {
            before++;
        } else {
            m->hint = hint;
            m->tail = b->instructions - before;
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_marker, QEMU_PLUGIN_CB_NO_REGS,
                                                   m++);
        }
    }
}

static void on_exit(qemu_plugin_id_t id, void *context) {
    (void)id;
    (void)context;
    for (size_t i = 0; i < open_count; i++) {
        write_record(RECORD_OPEN, open_regions[i].id, executed - open_regions[i].start);
    }
    fclose(out);
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc,
                        char **argv) {
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) {
        fputs("cgate plugin: the only argument is out=FILE\n", stderr);
        return -1;
    }
    out = fopen(argv[0] + 4, "wb");
    if (out == NULL) {
        fprintf(stderr, "cgate plugin: cannot write %s\n", argv[0] + 4);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit, NULL);
    return 0;
}
