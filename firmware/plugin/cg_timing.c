#include "cg_timing.h"

enum { SP = CG_SP, PC = CG_PC };
/* The TRM says 2 to 12, by the operands, which a plugin does not see: the most. */
enum { DIVIDE_CYCLES = 12 };

static uint16_t bit(unsigned reg) {
    return (uint16_t)(1u << reg);
}

static uint8_t ones(unsigned mask) {
    return (uint8_t)__builtin_popcount(mask);
}

static cg_timing plain(unsigned class) {
    return (cg_timing){
        .class = (uint8_t) class, .cycles = 1, .base = CG_NO_REGISTER, .to = CG_NO_REGISTER};
}

/* Writing the program counter is a jump. */
static cg_timing data(unsigned class, unsigned rd) {
    cg_timing t = plain(class);
    if (rd == PC) {
        t.class = CG_BRANCH;
        t.jumps = 1;
        t.cycles += CG_REFILL;
    } else {
        t.pipe = CG_DATA;
        t.written = bit(rd);
    }
    return t;
}

static unsigned negated(unsigned number, int is_negative) {
    return is_negative ? -number : number;
}

/* `rd` becomes `rn` + `by`. */
static cg_timing sum(unsigned rd, unsigned rn, unsigned by) {
    cg_timing t = data(CG_ALU, rd);
    if (rd != PC && rn != PC) {
        t.to = (uint8_t)rd;
        t.from = (uint8_t)rn;
        t.by = by & 3;
    }
    return t;
}

static cg_timing jump(void) {
    cg_timing t = plain(CG_BRANCH);
    t.jumps = 1;
    t.cycles += CG_REFILL;
    return t;
}

static cg_timing may_jump(void) {
    cg_timing t = plain(CG_BRANCH);
    t.may_jump = 1;
    return t;
}

/* One access of `size` bytes at an address made of these registers. */
static void access(cg_timing *t, unsigned size, unsigned address) {
    t->address = (uint16_t)address;
    t->size = (uint8_t)(size > 1 ? size : 0);
    t->stack = address == bit(SP);
    if ((address & (address - 1)) == 0) {
        t->base = (uint8_t)__builtin_ctz(address);
    }
}

static cg_timing load(unsigned size, unsigned rt, unsigned address) {
    cg_timing t = plain(CG_LOAD);
    t.cycles = 2;
    t.pipe = CG_LOAD_ONE;
    t.written = bit(rt);
    access(&t, size, address);
    if (rt == PC && size == 4) {
        t.pipe = CG_TRANSFER;
        t.jumps = 1;
        t.cycles += CG_REFILL;
    }
    return t;
}

static cg_timing store(unsigned size, unsigned address, int by_register) {
    cg_timing t = plain(CG_STORE);
    t.cycles = by_register ? 2 : 1;
    t.pipe = by_register ? CG_STORE_REGISTER : CG_STORE_IMMEDIATE;
    access(&t, size, address);
    return t;
}

static cg_timing at(cg_timing t, unsigned offset) {
    t.offset = offset & 3;
    return t;
}

/* `loaded`: the registers that it loads. Its base register moves by whole words. */
static cg_timing transfer(unsigned loaded, unsigned words, unsigned base, int to_pc) {
    cg_timing t = plain(loaded ? CG_LOAD : CG_STORE);
    t.cycles = (uint8_t)(1 + words);
    t.pipe = CG_TRANSFER;
    t.written = (uint16_t)loaded;
    t.address = bit(base);
    t.stack = base == SP;
    if (to_pc) {
        t.jumps = 1;
        t.cycles += CG_REFILL;
    }
    return t;
}

/* It may write any register. */
static cg_timing anything(cg_timing t) {
    t.written = UINT16_MAX;
    return t;
}

static cg_timing decode_high_registers(unsigned h) {
    const unsigned rd = (h & 7) | (h >> 4 & 8);
    switch (h >> 8 & 3) {
    case 1: /* CMP */
        return plain(CG_ALU);
    case 2: /* MOV */
        return sum(rd, h >> 3 & 15, 0);
    case 3: /* BX, BLX */
        return jump();
    default: /* ADD */
        return data(CG_ALU, rd);
    }
}

static cg_timing decode_16_arithmetic(unsigned h) {
    const unsigned low = h & 7, middle = h >> 8 & 7, op = h >> 6 & 15;
    switch (h >> 11) {
    case 0: /* LSL; by 0: MOV */
        return h & 0x7c0 ? data(CG_ALU, low) : sum(low, h >> 3 & 7, 0);
    case 3: /* ADD, SUB of a register or of a constant */
        return h & 0x400 ? sum(low, h >> 3 & 7, negated(h >> 6 & 7, h & 0x200)) : data(CG_ALU, low);
    case 5: /* CMP */
        return plain(CG_ALU);
    case 4: /* MOV */
        return data(CG_ALU, middle);
    case 6: /* ADD */
    case 7: /* SUB */
        return sum(middle, middle, negated(h & 0xff, h & 0x800));
    case 8:
        if (h & 0x400) {
            return decode_high_registers(h);
        }
        if (op == 8 || op == 10 || op == 11) { /* TST, CMP, CMN */
            return plain(CG_ALU);
        }
        return data(op == 13 ? CG_MUL : CG_ALU, low);
    default: /* LSR, ASR */
        return data(CG_ALU, low);
    }
}

static cg_timing decode_16_miscellaneous(unsigned h) {
    if ((h & 0xf500) == 0xb100) { /* CBZ, CBNZ */
        return may_jump();
    }
    switch (h >> 8 & 15) {
    case 0: /* ADD, SUB to SP */
        return data(CG_ALU, SP);
    case 2:  /* SXTH and its like */
    case 10: /* REV and its like */
        return data(CG_ALU, h & 7);
    case 4:
    case 5: /* PUSH */
        return transfer(0, ones(h & 0x1ff), SP, 0);
    case 12:
    case 13: /* POP */
        return transfer((h & 0xff) | (h << 7 & bit(PC)), ones(h & 0x1ff), SP, (h & 0x100) != 0);
    case 15: {
        cg_timing t = plain(CG_SYSTEM);
        const unsigned mask = h & 15;
        t.it = mask ? (uint8_t)(4 - __builtin_ctz(mask)) : 0;
        return t;
    }
    default: /* CPS, BKPT */
        return plain(CG_SYSTEM);
    }
}

static cg_timing decode_16(unsigned h) {
    const unsigned rt = h & 7, rn = h >> 3 & 7, rm = h >> 6 & 7, rd = h >> 8 & 7;
    static const uint8_t sizes[8] = {4, 2, 1, 1, 4, 2, 1, 2}; /* of register-offset accesses */
    switch (h >> 11) {
    case 9: /* LDR literal */
        return load(4, rd, bit(PC));
    case 10:
    case 11: {
        const unsigned op = h >> 9 & 7;
        const unsigned address = bit(rn) | bit(rm);
        cg_timing t = op < 3 ? store(sizes[op], address, 1) : load(sizes[op], rt, address);
        t.base = CG_NO_REGISTER;
        return t;
    }
    case 12:
        return store(4, bit(rn), 0);
    case 13:
        return load(4, rt, bit(rn));
    case 14:
        return store(1, bit(rn), 0);
    case 15:
        return load(1, rt, bit(rn));
    case 16:
        return at(store(2, bit(rn), 0), h >> 5 & 2);
    case 17:
        return at(load(2, rt, bit(rn)), h >> 5 & 2);
    case 18:
        return store(4, bit(SP), 0);
    case 19:
        return load(4, rd, bit(SP));
    case 20: /* ADR */
        return data(CG_ALU, rd);
    case 21: /* SP + words */
        return sum(rd, SP, 0);
    case 22:
    case 23:
        return decode_16_miscellaneous(h);
    case 24:
        return transfer(0, ones(h & 0xff), rd, 0);
    case 25:
        return transfer(h & 0xff, ones(h & 0xff), rd, 0);
    case 26:
    case 27: /* B<cond>; the last two conditions are UDF and SVC */
        return (h >> 8 & 15) < 14 ? may_jump() : plain(CG_SYSTEM);
    case 28:
        return jump();
    default:
        return decode_16_arithmetic(h);
    }
}

static cg_timing decode_transfer(unsigned h, unsigned g) {
    const int is_load = (h & 0x10) != 0;
    const unsigned base = h & 15;
    if (!(h & 0x40)) { /* LDM, STM */
        return transfer(is_load ? g : 0, ones(g), base, is_load && (g & 0x8000));
    }
    if ((h & 0xfff0) == 0xe8d0 && (g & 0xffe0) == 0xf000) { /* TBB, TBH */
        cg_timing t = transfer(bit(PC), 1, base, 1);
        t.class = CG_BRANCH;
        t.address |= bit(g & 15);
        return t;
    }
    if (h & 0x120) { /* LDRD, STRD */
        return transfer(is_load ? bit(g >> 12) | bit(g >> 8 & 15) : 0u, 2, base, 0);
    }
    /* LDREX, STREX */
    return is_load ? load(4, g >> 12, bit(base)) : anything(store(4, bit(base), 0));
}

static cg_timing decode_single(unsigned h, unsigned g) {
    const unsigned rn = h & 15, rt = g >> 12;
    const unsigned size = 1u << (h >> 5 & 3);
    const int by_register = rn != PC && !(h & 0x80) && (g & 0xfc0) == 0;
    const unsigned address = bit(rn) | (by_register ? bit(g & 15) : 0);
    cg_timing t = h & 0x10 ? load(size, rt, address) : store(size, address, by_register);
    if (by_register) {
        t.base = (uint8_t)(g & 0x20 ? rn : CG_NO_REGISTER); /* shifted by 2 or 3: whole words */
    } else if (rn == PC) {
        t.offset = negated(g, !(h & 0x80)) & 3;
    } else if (h & 0x80) {
        t.offset = g & 3;
    } else {
        const unsigned by = negated(g, !(g & 0x200)) & 3;
        t.offset = g & 0x400 ? (uint8_t)by : 0;
        if (g & 0x100) { /* write-back */
            t.to = t.from = (uint8_t)rn;
            t.by = (uint8_t)by;
        }
    }
    return t;
}

/* The last two bits of the constant i:imm3:imm8. */
static unsigned expanded(unsigned h, unsigned g) {
    const unsigned pattern = (h << 1 & 0x800) | (g >> 4 & 0x700);
    if (pattern < 0x400) { /* one byte at several places; 2: not at the last */
        return pattern == 0x200 ? 0 : g & 3;
    }
    /* Eight bits rotated right by 8 to 31. */
    return (pattern >> 7 | (g >> 7 & 1)) == 31 ? g << 1 & 2 : 0;
}

static cg_timing decode_immediate(unsigned h, unsigned g) {
    const unsigned op = h >> 4 & 31, rd = g >> 8 & 15, rn = h & 15;
    if (h & 0x200) {
        if (op == 0 || op == 10) { /* ADD, SUB of twelve bits */
            return sum(rd, rn, negated(g, op == 10));
        }
        /* SSAT, USAT and their 16-bit pairs */
        const int saturates = op == 16 || op == 18 || op == 24 || op == 26;
        return data(saturates ? CG_SIMD : CG_ALU, rd);
    }
    if (rd == PC) { /* a compare */
        return plain(CG_ALU);
    }
    const int adds = (op & 30) == 16, subtracts = (op & 30) == 26;
    return adds || subtracts ? sum(rd, rn, negated(expanded(h, g), subtracts != 0))
                             : data(CG_ALU, rd);
}

static cg_timing decode_branch(unsigned h, unsigned g) {
    if (g & 0x5000) {
        /* BL, B; without the lowest of the two bits a loop of Armv8.1-M */
        return g & 0x1000 ? jump() : anything(may_jump());
    }
    return (h & 0x380) != 0x380 ? may_jump() : anything(plain(CG_SYSTEM));
}

static cg_timing decode_register(unsigned h, unsigned g) {
    const unsigned op = h >> 4 & 7;
    int simd;
    if (h & 0x80) {
        /* Parallel additions, then QADD; then SEL beside REV and CLZ, which every core has. */
        simd = !(g & 0x80) || (op & 3) == 0 || (op == 2 && !(g & 0x30));
    } else {
        /* Shifts by a register; extensions, of pairs or with an addition. */
        simd = (g & 0x80) && ((op & 6) == 2 || (h & 15) != 15);
    }
    return data(simd ? CG_SIMD : CG_ALU, g >> 8 & 15);
}

static cg_timing decode_multiply(unsigned h, unsigned g) {
    const unsigned op = h >> 4 & 7;
    if (!(h & 0x80)) {
        const unsigned class = op == 2 || op == 4 ? CG_MAC2 : op == 7 ? CG_SIMD : CG_MUL;
        return data(class, g >> 8 & 15);
    }
    if (op == 1 || op == 3) {
        cg_timing t = data(CG_DIV, g >> 8 & 15);
        t.cycles = DIVIDE_CYCLES;
        return t;
    }
    cg_timing t = data((op == 4 || op == 5) && (g & 0xc0) == 0xc0 ? CG_MAC2 : CG_MUL, g >> 8 & 15);
    t.written |= bit(g >> 12);
    return t;
}

/* Cycles are those of the single-precision unit; the library itself has no floating point. */
static cg_timing decode_coprocessor(unsigned h, unsigned g) {
    cg_timing t = anything(plain(CG_FP));
    if ((h & 0xfe00) == 0xec00 && (h & 0x1a0)) { /* VLDR, VSTR, VLDM, VSTM */
        const int single = (h & 0x120) == 0x100;
        t.pipe = CG_TRANSFER;
        t.address = bit(h & 15);
        t.cycles = (uint8_t)(1 + (single ? 1 + (g >> 8 & 1) : g & 0xff));
    } else if ((h & 0xffb0) == 0xee80) { /* VDIV */
        t.cycles = 14;
    } else if ((h & 0xffb0) == 0xee00) { /* VMLA */
        t.cycles = 3;
    }
    return t;
}

static cg_timing decode_32(unsigned h, unsigned g) {
    if ((h & 0xec00) == 0xec00) {
        return decode_coprocessor(h, g);
    }
    switch (h >> 9 & 15) {
    case 4: /* e8, e9 */
        return decode_transfer(h, g);
    case 5: { /* ea, eb: PKH is the only one of the DSP extension; PC: a compare */
        const unsigned rd = g >> 8 & 15;
        const unsigned op = h >> 5 & 15, class = op == 6 ? CG_SIMD : CG_ALU;
        const unsigned shift = (g >> 10 & 28) | (g >> 6 & 3);
        if (rd != PC && op == 2 && (h & 15) == PC && (g & 0xf0f0) == 0) { /* MOV */
            return sum(rd, g & 15, 0);
        }
        if (rd != PC && op == 8 && shift >= 2 && (g & 0x30) == 0) { /* ADD of LSL: whole words */
            return sum(rd, h & 15, 0);
        }
        return rd == PC ? plain(class) : data(class, rd);
    }
    case 12: /* f8, f9 */
        return decode_single(h, g);
    case 13: /* fa, fb */
        return h & 0x100 ? decode_multiply(h, g) : decode_register(h, g);
    default: /* f0 to f7 */
        return g & 0x8000 ? decode_branch(h, g) : decode_immediate(h, g);
    }
}

cg_timing cg_decode(const uint8_t *bytes, size_t size) {
    const unsigned h = bytes[0] | (unsigned)bytes[1] << 8;
    if (h < 0xe800 || size < 4) {
        return decode_16(h);
    }
    return decode_32(h, bytes[2] | (unsigned)bytes[3] << 8);
}

unsigned cg_cycles(const cg_timing *before, const cg_timing *now) {
    if (before == NULL) {
        return now->cycles;
    }
    const int depends = (before->written & now->address) != 0;
    if (before->pipe == CG_DATA && depends) {
        return now->cycles + 1u; /* no forwarding from arithmetic to addresses */
    }
    const int overlaps = now->pipe == CG_LOAD_ONE || now->pipe == CG_STORE_REGISTER;
    if (before->pipe == CG_LOAD_ONE && overlaps && !depends) {
        return now->cycles - 1u;
    }
    return now->cycles;
}
