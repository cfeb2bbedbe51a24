#include "cg_alignment.h"

/* The TRM: a word takes a cycle more at an even address, two at an odd one, half a word one. */
static unsigned lost(unsigned size, unsigned address) {
    if ((address & (size - 1)) == 0) {
        return 0;
    }
    return size == 4 && (address & 1) ? 2 : 1;
}

void cg_alignment_open(cg_alignment *a, cg_group *room) {
    a->aligned = (cg_group){.watched = 1};
    a->next = room;
    cg_alignment_cut(a);
}

static void forget(cg_alignment *a, unsigned reg) {
    /* The last two bits of SP read as zero, whatever is written. */
    a->registers[reg] = (cg_place){reg == CG_SP ? &a->aligned : NULL, 0};
}

void cg_alignment_cut(cg_alignment *a) {
    for (unsigned reg = 0; reg < CG_NO_REGISTER; reg++) {
        forget(a, reg);
    }
}

static cg_place place(cg_alignment *a, unsigned reg) {
    if (reg == CG_PC) { /* aligned, where it is a base */
        return (cg_place){&a->aligned, 0};
    }
    if (a->registers[reg].group == NULL) {
        a->registers[reg].group = a->next++;
    }
    return a->registers[reg];
}

/* Counts an access at `where` into its group; whether that is still to be watched. */
static int joins(cg_place where, unsigned size) {
    cg_group *group = where.group;
    const int is_first = !group->watched;
    if (is_first) {
        group->watched = 1;
        group->first = where.offset;
    }
    for (unsigned address = 0; address < 4; address++) {
        group->lost[address] += lost(size, address + where.offset - group->first);
    }
    return is_first;
}

cg_group *cg_align(cg_alignment *a, const cg_timing *now, int skippable, unsigned *cycles) {
    cg_group *watched = NULL;
    if (now->size > 1) {
        const int alone = skippable || now->base == CG_NO_REGISTER;
        cg_place where = alone ? (cg_place){a->next++, 0} : place(a, now->base);
        where.offset += now->offset;
        if (where.group == &a->aligned) {
            *cycles += lost(now->size, where.offset);
        } else if (joins(where, now->size)) {
            watched = where.group;
        }
    }
    cg_place moved = {0};
    if (now->to != CG_NO_REGISTER && !skippable) {
        moved = place(a, now->from);
        moved.offset += now->by;
    }
    for (unsigned reg = 0; reg < CG_NO_REGISTER; reg++) {
        if (now->written >> reg & 1) {
            forget(a, reg);
        }
    }
    if (now->to != CG_NO_REGISTER) {
        forget(a, now->to);
        if (moved.group != NULL && now->to != CG_SP) {
            a->registers[now->to] = moved;
        }
    }
    return watched;
}
