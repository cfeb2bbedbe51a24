/*
 * Port to semihosting: QEMU, or a debug probe. Requests are read from the file `requests`, replies
 * written to the file `replies`, both in the host's working directory; either may be a pipe.
 */
#include "cg_port.h"

#include <stdint.h>

enum {
    SYS_OPEN = 0x01,
    SYS_WRITE0 = 0x04,
    SYS_WRITE = 0x05,
    SYS_READ = 0x06,
    SYS_EXIT = 0x18,
    SYS_EXIT_EXTENDED = 0x20,
};
enum { OPEN_READ_BINARY = 1, OPEN_WRITE_BINARY = 5 };
enum { APPLICATION_EXIT = 0x20026 };
enum { NO_FILE_EXIT_CODE = 71, WRITE_EXIT_CODE = 72 };

static uintptr_t requests, replies;

static uintptr_t call(uintptr_t operation, const void *argument) {
    register uintptr_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = argument;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uintptr_t open_file(const char *name, uintptr_t length, uintptr_t mode) {
    const uintptr_t block[3] = {(uintptr_t)name, mode, length};
    const uintptr_t file = call(SYS_OPEN, block);
    if (file == UINTPTR_MAX) {
        cg_port_text("cgate: cannot open the file ");
        cg_port_text(name);
        cg_port_text("\n");
        cg_port_exit(NO_FILE_EXIT_CODE);
    }
    return file;
}

void cg_port_open(void) {
    requests = open_file("requests", sizeof "requests" - 1, OPEN_READ_BINARY);
    replies = open_file("replies", sizeof "replies" - 1, OPEN_WRITE_BINARY);
}

size_t cg_port_read(void *data, size_t size) {
    /* A pipe hands out what it has. The call returns how many bytes are still missing. */
    size_t missing = size;
    while (missing > 0) {
        const uintptr_t block[3] = {requests, (uintptr_t)data + (size - missing), missing};
        const uintptr_t left = call(SYS_READ, block);
        if (left >= missing) {
            break;
        }
        missing = left;
    }
    return size - missing;
}

void cg_port_write(const void *data, size_t size) {
    size_t missing = size;
    while (missing > 0) {
        const uintptr_t block[3] = {replies, (uintptr_t)data + (size - missing), missing};
        const uintptr_t left = call(SYS_WRITE, block);
        if (left >= missing) {
            cg_port_exit(WRITE_EXIT_CODE);
        }
        missing = left;
    }
}

void cg_port_text(const char *text) {
    call(SYS_WRITE0, text);
}

_Noreturn void cg_port_exit(int code) {
    const uintptr_t block[2] = {APPLICATION_EXIT, (uintptr_t)code};
    call(SYS_EXIT_EXTENDED, block);
    /* A host without the extended call ends here, without the code. */
    call(SYS_EXIT, (const void *)(uintptr_t)APPLICATION_EXIT);
    for (;;) {
    }
}
