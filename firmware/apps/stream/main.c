/*
 * Answers inference requests over a byte stream (SPEC.md, section 9). The same source is linked
 * for the host and for every target; only the port differs.
 *
 * The build says which model this is by macros, here for one named `model`:
 *
 *     CG_APP_HEADER="model.h"            CG_APP_MODEL=model_model
 *     CG_APP_INPUT=MODEL_INPUT_SIZE      CG_APP_OUTPUT=MODEL_OUTPUT_SIZE
 *     CG_APP_ARENA=MODEL_ARENA_SIZE      CG_APP_GATES=MODEL_GATES
 */
#include "cg_port.h"
#include "cgate.h"

#include CG_APP_HEADER

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

enum { BAD_TYPE = 1, BAD_LENGTH = 2, BAD_CRC = 3, NO_COUNTER = 4 };

/* In the place of a unit's index: the whole inference. */
enum { WHOLE = 0xffff };

/* A request's payload: the image, then what to do with each gate. One byte more than needed here
 * and in `decisions`, because a network without gates still needs something to point at. */
enum { MAX_PAYLOAD = CG_APP_INPUT + CG_APP_GATES };
static alignas(CG_ARENA_ALIGN) uint8_t request[MAX_PAYLOAD + 1];
static alignas(CG_ARENA_ALIGN) uint8_t arena[CG_APP_ARENA];
static int8_t logits[CG_APP_OUTPUT];
static uint8_t decisions[CG_APP_GATES + 1];

static uint32_t crc32(uint32_t crc, const void *data, size_t size) {
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
        0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
        0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    const uint8_t *bytes = data;
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = table[crc & 15] ^ (crc >> 4);
        crc = table[crc & 15] ^ (crc >> 4);
    }
    return ~crc;
}

static void put16(uint8_t *to, uint32_t value) {
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *to, uint32_t value) {
    put16(to, value);
    put16(to + 2, value >> 16);
}

static uint32_t get32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
           (uint32_t)from[3] << 24;
}

/* A reply is written piece by piece, so that it needs no buffer: begin, parts, end. */
static uint32_t reply_crc;

static void reply_part(const void *data, size_t size) {
    reply_crc = crc32(reply_crc, data, size);
    cg_port_write(data, size);
}

static void reply_begin(char type, size_t length) {
    uint8_t head[6] = {(uint8_t)type, 0};
    put32(head + 2, (uint32_t)length);
    reply_crc = 0;
    cg_port_write("CG", 2);
    reply_part(head, sizeof head);
}

static void reply_end(void) {
    uint8_t crc[4];
    put32(crc, reply_crc);
    cg_port_write(crc, sizeof crc);
}

static void reply_error(uint8_t error) {
    reply_begin('e', 1);
    reply_part(&error, 1);
    reply_end();
}

static void reply_info(void) {
    uint8_t head[20];
    const size_t name_length = strlen(CG_APP_MODEL.name);
    put32(head, CG_APP_MODEL.abi);
    put32(head + 4, CG_APP_MODEL.input_size);
    put32(head + 8, CG_APP_MODEL.output_size);
    put32(head + 12, CG_APP_MODEL.arena_size);
    put16(head + 16, CG_APP_MODEL.units);
    put16(head + 18, CG_APP_MODEL.gates);
    reply_begin('i', sizeof head + sizeof CG_APP_MODEL.plan_sha256 + name_length);
    reply_part(head, sizeof head);
    reply_part(CG_APP_MODEL.plan_sha256, sizeof CG_APP_MODEL.plan_sha256);
    reply_part(CG_APP_MODEL.name, name_length);
    reply_end();
}

static void reply_unit(void *context, uint32_t unit, const int8_t *output, size_t size) {
    (void)context;
    uint8_t head[2];
    put16(head, unit);
    reply_begin('u', sizeof head + size);
    reply_part(head, sizeof head);
    reply_part(output, size);
    reply_end();
}

static uint32_t since;

static void reply_cycles(uint32_t unit) {
    uint8_t payload[6];
    uint32_t now = 0;
    cg_port_cycles(&now);
    put16(payload, unit);
    put32(payload + 2, now - since);
    reply_begin('t', sizeof payload);
    reply_part(payload, sizeof payload);
    reply_end();
    /* What it took to say so belongs to no unit. */
    cg_port_cycles(&since);
}

static void unit_timed(void *context, uint32_t unit, const int8_t *output, size_t size) {
    (void)context;
    (void)output;
    (void)size;
    reply_cycles(unit);
}

static uint32_t argmax(const int8_t *values, uint32_t size) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < size; i++) {
        if (values[i] > values[best]) {
            best = i;
        }
    }
    return best;
}

typedef void (*unit_hook)(void *context, uint32_t unit, const int8_t *output, size_t size);

static cg_status infer(int forced, unit_hook unit_done) {
    const uint8_t *force = request + CG_APP_INPUT;
    for (uint32_t i = 0; forced && i < CG_APP_MODEL.gates; i++) {
        if (force[i] > CG_GATE_SHUT) {
            return CG_ERR_PARAM;
        }
    }
    const cg_hooks hooks = {
        .unit_done = unit_done,
        .force = forced ? force : NULL,
        .decisions = decisions,
    };
    memset(logits, 0, sizeof logits);
    memset(decisions, 0, sizeof decisions);
    return CG_APP_MODEL.run((const int8_t *)request, logits, arena, &hooks);
}

static void reply_run(int forced, unit_hook unit_done) {
    const cg_status status = infer(forced, unit_done);
    uint8_t head[3] = {(uint8_t)status};
    put16(head + 1, argmax(logits, CG_APP_OUTPUT));
    reply_begin('r', sizeof head + CG_APP_GATES + CG_APP_OUTPUT);
    reply_part(head, sizeof head);
    reply_part(decisions, CG_APP_GATES);
    reply_part(logits, CG_APP_OUTPUT);
    reply_end();
}

/* Once undisturbed for the whole, once more for the units. */
static void reply_timed(int forced) {
    if (!cg_port_cycles(&since)) {
        reply_error(NO_COUNTER);
        return;
    }
    if (infer(forced, NULL) == CG_OK) {
        reply_cycles(WHOLE);
    }
    reply_run(forced, unit_timed);
}

/* Reads up to the end of the next head; returns 0 when the input has ended. */
static int read_head(uint8_t head[6]) {
    uint8_t last = 0, byte = 0;
    while (last != 'C' || byte != 'G') {
        last = byte;
        if (cg_port_read(&byte, 1) != 1) {
            return 0;
        }
    }
    return cg_port_read(head, 6) == 6;
}

/* Answers one request; returns 0 when it was the last. */
static int serve(const uint8_t head[6]) {
    const uint32_t length = get32(head + 2);
    uint8_t crc[4];
    if (length > MAX_PAYLOAD) {
        /* Not read: what follows may be no payload at all. The search for a head goes on. */
        reply_error(BAD_LENGTH);
        return 1;
    }
    if (cg_port_read(request, length) != length || cg_port_read(crc, 4) != 4) {
        return 0;
    }
    if (crc32(crc32(0, head, 6), request, length) != get32(crc)) {
        reply_error(BAD_CRC);
        return 1;
    }
    switch (head[0]) {
    case 'R':
    case 'V':
    case 'T':
        if (length != CG_APP_INPUT && length != MAX_PAYLOAD) {
            reply_error(BAD_LENGTH);
        } else if (head[0] == 'T') {
            reply_timed(length == MAX_PAYLOAD);
        } else {
            reply_run(length == MAX_PAYLOAD, head[0] == 'V' ? reply_unit : NULL);
        }
        return 1;
    case 'I':
    case 'Q':
        if (length != 0) {
            reply_error(BAD_LENGTH);
            return 1;
        }
        if (head[0] == 'I') {
            reply_info();
            return 1;
        }
        reply_begin('q', 0);
        reply_end();
        return 0;
    default:
        reply_error(BAD_TYPE);
        return 1;
    }
}

int main(void) {
    uint8_t head[6];
    cg_port_open();
    /* Whoever started this program may send from now on. */
    cg_port_text("cgate ready\n");
    while (read_head(head) && serve(head)) {
    }
    return 0;
}
