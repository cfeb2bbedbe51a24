#include "cg_flash.h"

#include <stdlib.h>

enum { NONE = 0 };

/* Fully associative, least recently used out first. Slots 1 to `lines` are a ring through slot 0,
 * whose `newer` is the oldest and whose `older` the newest slot. */
typedef struct {
    uint16_t *slot_of; /* by line of the flash; NONE where it is not held */
    struct {
        uint32_t line;
        uint16_t older, newer;
    } slots[1 + CG_FLASH_MAX_LINES];
    uint32_t lines, used;
} cache;

static cg_flash memory;
static cache instructions, constants;
static uint32_t current; /* the line that executes, plus one; 0: none yet */
static uint32_t elapsed; /* cycles since it began */

static int open_cache(cache *c, uint32_t lines) {
    c->lines = lines;
    c->slot_of = calloc(memory.size / memory.line + 1, sizeof *c->slot_of);
    return lines <= CG_FLASH_MAX_LINES && c->slot_of != NULL;
}

int cg_flash_open(const cg_flash *flash) {
    memory = *flash;
    return memory.line >= 4 && (memory.line & (memory.line - 1)) == 0 &&
           open_cache(&instructions, memory.instruction_lines) &&
           open_cache(&constants, memory.data_lines);
}

static void empty(cache *c) {
    for (uint32_t slot = 1; slot <= c->used; slot++) {
        c->slot_of[c->slots[slot].line] = NONE;
    }
    c->used = 0;
    c->slots[0].older = 0;
    c->slots[0].newer = 0;
}

void cg_flash_forget(void) {
    empty(&instructions);
    empty(&constants);
    current = 0;
    elapsed = 0;
}

int cg_flash_has(uint32_t address) {
    return address - memory.origin < memory.size;
}

uint32_t cg_flash_line(uint32_t address) {
    return (address - memory.origin) / memory.line;
}

static void unlink_slot(cache *c, uint16_t slot) {
    c->slots[c->slots[slot].older].newer = c->slots[slot].newer;
    c->slots[c->slots[slot].newer].older = c->slots[slot].older;
}

static void link_newest(cache *c, uint16_t slot) {
    const uint16_t newest = c->slots[0].older;
    c->slots[slot].older = newest;
    c->slots[slot].newer = 0;
    c->slots[newest].newer = slot;
    c->slots[0].older = slot;
}

/* Whether the line is held; it is then the newest. */
static int hit(cache *c, uint32_t line) {
    const uint16_t slot = c->slot_of[line];
    if (slot == NONE) {
        return 0;
    }
    if (c->slots[0].older != slot) {
        unlink_slot(c, slot);
        link_newest(c, slot);
    }
    return 1;
}

static void insert(cache *c, uint32_t line) {
    uint16_t slot;
    if (c->lines == 0) {
        return;
    }
    if (c->used < c->lines) {
        slot = (uint16_t)++c->used;
    } else {
        slot = c->slots[0].newer;
        unlink_slot(c, slot);
        c->slot_of[c->slots[slot].line] = NONE;
    }
    c->slots[slot].line = line;
    c->slot_of[line] = slot;
    link_newest(c, slot);
}

uint32_t cg_flash_execute(uint32_t line, uint32_t cycles) {
    if (line + 1 == current) {
        elapsed += cycles;
        return 0;
    }
    uint32_t lost = 0;
    if (!hit(&instructions, line)) {
        lost = memory.wait_states;
        if (memory.prefetch && line == current && elapsed > 1) {
            /* The access began when the line before did, and takes wait_states + 1 cycles. */
            lost = elapsed - 1 < lost ? lost - (elapsed - 1) : 0;
        }
        if (lost > 0) {
            insert(&instructions, line); /* what the core waited for is kept */
        }
    }
    current = line + 1;
    elapsed = cycles;
    return lost;
}

uint32_t cg_flash_read(uint32_t line) {
    if (hit(&constants, line)) {
        return 0;
    }
    insert(&constants, line);
    return memory.wait_states;
}
