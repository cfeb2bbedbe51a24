/*
 * QEMU plugin: counts executed instructions by class, and models Cortex-M4 cycles, between markers
 * (SPEC.md, section 10).
 *
 * A translation block is decoded once. Each time it is entered, one callback counts it and settles
 * what depends on the block before: whether that one's conditional branch was taken, and whether
 * the loads where QEMU cut the two overlap. The blocks' counts are summed up at markers only. A
 * marker inside a block takes off what follows it, so that a region is exact to one instruction
 * wherever QEMU puts block boundaries. Markers are not counted.
 *
 * Usage: -plugin libcg_plugin.so,out=FILE[,flash=ORIGIN:SIZE:WAIT:LINE:ILINES:DLINES:PREFETCH]
 * FILE gets one record per end of a region, in order, and at exit one per region that is still
 * open, outermost first: after a crash, the last one tells where it happened.
 */
#include "cg_alignment.h"
#include "cg_flash.h"
#include "cg_timing.h"
#include "qemu_plugin.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REGIONS = 256, INFERENCE = 255 };
enum { RECORD_END = 0, RECORD_OPEN = 1 };

typedef struct {
    uint64_t cycles; /* zero wait states */
    uint64_t stalls; /* waiting for the flash */
    uint64_t instructions[CG_CLASSES];
} counts;

/* In the byte order of the machine that runs QEMU. */
typedef struct {
    uint32_t kind;
    uint32_t id;
    counts counted;
} record;

typedef struct {
    uint8_t hint; /* of HINT.W the last byte; of a short hint its number, 5 to 14 */
    counts tail;  /* of the block after this one, markers left out */
} marker;

/* Part of a block in one line of the flash. */
typedef struct {
    uint32_t line, cycles;
} stretch;

/* Never freed: QEMU keeps pointers to blocks for as long as it runs. */
typedef struct block {
    uint64_t entered;    /* since the last sum */
    struct block *dirty; /* the next block that was entered since then */
    counts once;
    uint64_t start, end; /* addresses */
    cg_timing first, last;
    unsigned conditional; /* instructions behind it that its last IT still covers */
    stretch *stretches;
    size_t stretch_count;
    marker *markers;
} block;

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;
QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info,
                                           int argc, char **argv);

static FILE *out;
static int flash_modelled;
static counts executed; /* up to the last sum, and what is not in any block */
static block *dirty;    /* entered since the last sum */
static const block *previous;
static unsigned group; /* id / 32, from the first instruction of a marker */
/* A marker of short hints, as far as it has come: its first one, and digits to base 8. */
static struct { unsigned kind, id, digits; } spelled;
/* Open regions, outermost first. */
static struct {
    unsigned id;
    counts start;
} open_regions[REGIONS];
static size_t open_count;

static void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL) {
        fputs("cgate plugin: out of memory\n", stderr);
        exit(EXIT_FAILURE);
    }
    return memory;
}

/* sum += times * part; negative `times` by the rules of unsigned numbers. */
static void accumulate(counts *sum, const counts *part, uint64_t times) {
    sum->cycles += times * part->cycles;
    sum->stalls += times * part->stalls;
    for (size_t i = 0; i < CG_CLASSES; i++) {
        sum->instructions[i] += times * part->instructions[i];
    }
}

static counts difference(const counts *a, const counts *b) {
    counts d = *a;
    accumulate(&d, b, UINT64_MAX);
    return d;
}

/* Everything executed until now, the rest of the present block included. */
static const counts *sum_up(void) {
    for (block *b = dirty; b != NULL; b = b->dirty) {
        accumulate(&executed, &b->once, b->entered);
        b->entered = 0;
    }
    dirty = NULL;
    return &executed;
}

static void write_record(uint32_t kind, uint32_t id, const counts *counted) {
    const record r = {kind, id, *counted};
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

static void begin(unsigned id, const counts *now) {
    /* A region that was left by an early return ends without a record, with all inside it. A new
     * inference leaves everything. */
    open_count = id == INFERENCE ? 0 : find(id);
    if (id == INFERENCE) {
        cg_flash_forget();
    }
    open_regions[open_count].id = id;
    open_regions[open_count].start = *now;
    open_count++;
}

static void end(unsigned id, const counts *now) {
    const size_t place = find(id);
    if (place < open_count) {
        const counts counted = difference(now, &open_regions[place].start);
        write_record(RECORD_END, id, &counted);
        open_count = place;
    }
}

static void on_block(unsigned int cpu, void *context) {
    (void)cpu;
    block *b = context;
    const block *before = previous;
    previous = b;
    if (b->entered++ == 0) {
        b->dirty = dirty;
        dirty = b;
    }
    if (before != NULL) {
        if (before->end != b->start) {
            executed.cycles += before->last.may_jump ? CG_REFILL : 0;
        } else if (before->last.pipe != CG_PLAIN) {
            executed.cycles += cg_cycles(&before->last, &b->first);
            executed.cycles -= b->first.cycles;
        }
    }
    for (size_t i = 0; i < b->stretch_count; i++) {
        executed.stalls += cg_flash_execute(b->stretches[i].line, b->stretches[i].cycles);
    }
}

static void on_unaligned(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address,
                         void *context) {
    (void)cpu;
    (void)info;
    const cg_group *shared = context;
    executed.cycles += shared->lost[address & 3];
}

static void on_read(unsigned int cpu, qemu_plugin_meminfo_t info, uint64_t address, void *context) {
    (void)cpu;
    (void)context;
    if (!qemu_plugin_mem_is_store(info) && cg_flash_has((uint32_t)address)) {
        executed.stalls += cg_flash_read(cg_flash_line((uint32_t)address));
    }
}

/* The two kinds of markers; numbers are those of the hints. */
enum { SHORT_BEGIN = 5, SHORT_DIGIT = 7, SHORT_LAST = 14 };

static void on_marker(unsigned int cpu, void *context) {
    (void)cpu;
    const marker *m = context;
    int begins;
    unsigned id;
    if (m->hint <= SHORT_LAST) {
        if (m->hint < SHORT_DIGIT) {
            spelled.kind = m->hint;
            spelled.id = spelled.digits = 0;
            return;
        }
        spelled.id = spelled.id * 8 + m->hint - SHORT_DIGIT;
        if (++spelled.digits != 3) {
            return;
        }
        begins = spelled.kind == SHORT_BEGIN;
        id = spelled.id;
    } else {
        const unsigned low = m->hint & 31;
        if (m->hint >> 5 == 4) { /* 80..9f */
            group = low;
            return;
        }
        begins = m->hint >> 5 == 5; /* a0..bf; c0..df end */
        id = group * 32 + low;
    }
    const counts now = difference(sum_up(), &m->tail);
    if (begins) {
        begin(id % REGIONS, &now);
    } else {
        end(id % REGIONS, &now);
    }
}

/*
 * `hint` of a marker instruction, or 0. Thumb: two little-endian halfwords. The size may be
 * more than 4, because QEMU peeks at what follows the last instruction before the end of a page and
 * then reports those bytes too.
 */
static uint8_t hint_of(const struct qemu_plugin_insn *instruction) {
    static const uint8_t hint[3] = {0xaf, 0xf3};
    const uint8_t *bytes = qemu_plugin_insn_data(instruction);
    if (bytes[1] == 0xbf && (bytes[0] & 15) == 0) {
        const uint8_t number = bytes[0] >> 4;
        return number >= SHORT_BEGIN && number <= SHORT_LAST ? number : 0;
    }
    if (qemu_plugin_insn_size(instruction) < 4 || memcmp(bytes, hint, 2) != 0 || bytes[3] != 0x80 ||
        bytes[2] < 0x80 || bytes[2] > 0xdf) {
        return 0;
    }
    return bytes[2];
}

/* Counts `cycles` of the instruction at `address` into the block's stretches. */
static void add_stretch(block *b, uint64_t address, uint32_t cycles) {
    if (!flash_modelled || !cg_flash_has((uint32_t)address)) {
        return;
    }
    const uint32_t line = cg_flash_line((uint32_t)address);
    if (b->stretch_count == 0 || b->stretches[b->stretch_count - 1].line != line) {
        b->stretches[b->stretch_count++] = (stretch){line, 0};
    }
    b->stretches[b->stretch_count - 1].cycles += cycles;
}

static void watch(struct qemu_plugin_insn *instruction, const cg_timing *t, cg_group *shared) {
    if (shared != NULL) {
        qemu_plugin_register_vcpu_mem_cb(instruction, on_unaligned, QEMU_PLUGIN_CB_NO_REGS,
                                         QEMU_PLUGIN_MEM_RW, shared);
    }
    const int reads = t->class == CG_LOAD || t->class == CG_BRANCH || t->class == CG_FP;
    if (flash_modelled && reads && t->address != 0 && !t->stack) { /* the stack is in RAM */
        qemu_plugin_register_vcpu_mem_cb(instruction, on_read, QEMU_PLUGIN_CB_NO_REGS,
                                         QEMU_PLUGIN_MEM_RW, NULL);
    }
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t count = qemu_plugin_tb_n_insns(tb);
    size_t markers = 0;
    for (size_t i = 0; i < count; i++) {
        markers += hint_of(qemu_plugin_tb_get_insn(tb, i)) != 0;
    }
    block *b = allocate(sizeof *b);
    b->markers = allocate((markers + 1) * sizeof b->markers[0]);
    b->stretches = allocate((flash_modelled ? count : 1) * sizeof b->stretches[0]);
    b->start = qemu_plugin_tb_vaddr(tb);
    cg_alignment alignment;
    cg_alignment_open(&alignment, allocate(count * sizeof *alignment.next));

    marker *m = b->markers;
    const cg_timing *before = NULL;
    /* A block is translated when the one before it has run. */
    const int cut = previous != NULL && previous->end == b->start;
    unsigned conditional = cut ? previous->conditional : 0; /* that an IT still covers */
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(tb, i);
        const uint8_t *bytes = qemu_plugin_insn_data(instruction);
        cg_timing now = cg_decode(bytes, qemu_plugin_insn_size(instruction));
        const uint64_t address = qemu_plugin_insn_vaddr(instruction);
        b->end = address + (((bytes[1] & 0xf8) > 0xe0) ? 4 : 2);
        const uint8_t hint = hint_of(instruction);
        if (hint != 0) {
            m->hint = hint;
            m->tail = b->once; /* for now, what is before it */
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_marker, QEMU_PLUGIN_CB_NO_REGS,
                                                   m++);
            b->last = (cg_timing){0};
            before = NULL;
            cg_alignment_cut(&alignment);
            continue;
        }
        if (conditional > 0 && now.jumps) {
            now.jumps = 0;
            now.may_jump = 1;
            now.cycles -= CG_REFILL;
        }
        const int skippable = conditional > 0;
        conditional = now.it ? now.it : conditional > 0 ? conditional - 1 : 0;
        const unsigned cycles = cg_cycles(before, &now);
        b->once.cycles += cycles;
        b->once.instructions[now.class]++;
        add_stretch(b, address, cycles);
        unsigned unaligned = 0;
        watch(instruction, &now, cg_align(&alignment, &now, skippable, &unaligned));
        b->once.cycles += unaligned;
        if (i == 0) {
            b->first = now;
        }
        b->last = now;
        before = &b->last;
    }
    b->conditional = conditional;
    for (size_t i = 0; i < markers; i++) {
        b->markers[i].tail = difference(&b->once, &b->markers[i].tail);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, b);
}

static void on_exit(qemu_plugin_id_t id, void *context) {
    (void)id;
    (void)context;
    const counts *now = sum_up();
    for (size_t i = 0; i < open_count; i++) {
        const counts counted = difference(now, &open_regions[i].start);
        write_record(RECORD_OPEN, open_regions[i].id, &counted);
    }
    fclose(out);
}

static int open_flash(const char *text) {
    cg_flash f;
    const int fields = sscanf(
        text, "%" SCNu32 ":%" SCNu32 ":%" SCNu32 ":%" SCNu32 ":%" SCNu32 ":%" SCNu32 ":%" SCNu32,
        &f.origin, &f.size, &f.wait_states, &f.line, &f.instruction_lines, &f.data_lines,
        &f.prefetch);
    flash_modelled = fields == 7 && cg_flash_open(&f);
    return flash_modelled;
}

int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc,
                        char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0 && out == NULL) {
            out = fopen(argv[i] + 4, "wb");
        } else if (strncmp(argv[i], "flash=", 6) != 0 || !open_flash(argv[i] + 6)) {
            fprintf(stderr, "cgate plugin: cannot do %s\n", argv[i]);
            return -1;
        }
    }
    if (out == NULL) {
        fputs("cgate plugin: out=FILE is needed, where it can be written\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit, NULL);
    return 0;
}
