/*
 * libFuzzer on the stream application (SPEC.md, section 9), which is linked as `app_main`.
 *
 * The first byte of an input says what the rest is. Odd: the bytes as the device receives them.
 * Even: requests as type u8, flags u8, length u16, payload, which go out with a right CRC, because
 * a fuzzer does not guess one. What the application writes must be frames and nothing else.
 */
#include "cg_port.h"

#include <stdlib.h>
#include <string.h>

enum { HEAD = 8, TAIL = 4, LARGEST = 4096 };

int app_main(void);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *input;
static size_t input_size;
static uint8_t reply[HEAD + LARGEST + TAIL];
static size_t reply_size;

static uint32_t get32(const uint8_t *from) {
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
           (uint32_t)from[3] << 24;
}

static uint32_t crc32(const uint8_t *data, size_t size) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
        }
    }
    return ~crc;
}

static void need(int condition) {
    if (!condition) {
        abort();
    }
}

/* Takes complete frames off `reply`; a broken one ends the program. */
static void check_replies(void) {
    while (reply_size >= HEAD) {
        need(memcmp(reply, "CG", 2) == 0 && strchr("iruteq", reply[2]) != NULL && reply[2] != 0);
        const size_t length = get32(reply + 4);
        need(length <= LARGEST);
        const size_t whole = HEAD + length + TAIL;
        if (reply_size < whole) {
            return;
        }
        need(get32(reply + HEAD + length) == crc32(reply + 2, HEAD - 2 + length));
        reply_size -= whole;
        memmove(reply, reply + whole, reply_size);
    }
}

void cg_port_open(void) {
}

size_t cg_port_read(void *data, size_t size) {
    const size_t got = size < input_size ? size : input_size;
    memcpy(data, input, got);
    input += got;
    input_size -= got;
    return got;
}

void cg_port_write(const void *data, size_t size) {
    const uint8_t *bytes = data;
    while (size > 0) {
        const size_t room = sizeof reply - reply_size;
        const size_t part = size < room ? size : room;
        memcpy(reply + reply_size, bytes, part);
        reply_size += part;
        bytes += part;
        size -= part;
        check_replies();
    }
}

void cg_port_text(const char *text) {
    (void)text;
}

int cg_port_cycles(uint32_t *cycles) {
    *cycles = (uint32_t)input_size;
    return 1;
}

uint32_t cg_port_micros(void) {
    return 0;
}

void cg_port_edge(void) {
}

_Noreturn void cg_port_exit(int code) {
    (void)code;
    abort(); /* no request may end the program so */
}

/* Writes `data`, a list of requests, as frames to `to`; returns their size. */
static size_t frames(const uint8_t *data, size_t size, uint8_t *to) {
    size_t written = 0;
    while (size >= 4) {
        const size_t asked = (size_t)data[2] | (size_t)data[3] << 8;
        const size_t length = asked < size - 4 ? asked : size - 4;
        uint8_t *frame = to + written;
        const uint8_t head[HEAD] = {
            'C', 'G', data[0], data[1], (uint8_t)length, (uint8_t)(length >> 8),
        };
        memcpy(frame, head, HEAD);
        memcpy(frame + HEAD, data + 4, length);
        const uint32_t crc = crc32(frame + 2, HEAD - 2 + length);
        for (int i = 0; i < TAIL; i++) {
            frame[HEAD + length + (size_t)i] = (uint8_t)(crc >> 8 * i);
        }
        written += HEAD + length + TAIL;
        data += 4 + length;
        size -= 4 + length;
    }
    return written;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const int raw = data[0] % 2;
    /* A copy of its own size, so that a read beyond it is seen. A request grows by 8 bytes. */
    uint8_t *copy = malloc(raw ? size : 3 * size);
    need(copy != NULL);
    if (raw) {
        memcpy(copy, data + 1, size - 1);
        input_size = size - 1;
    } else {
        input_size = frames(data + 1, size - 1, copy);
    }
    input = copy;
    reply_size = 0;
    need(app_main() == 0);
    need(reply_size == 0);
    free(copy);
    return 0;
}
