/*
 * What a chip's start-up code leaves in its registers: the code itself, on this computer, with
 * plain memory where the chip has registers. Whatever it waits for comes true if the first
 * argument is 1, and never does if it is 0; each further pair of arguments is an address and what
 * the chip has there after reset.
 *
 * Writes, at every wait and at the end, a line "at", the address waited for or 0, and all words
 * that are not 0 as address=value; last "clocks", the core's and the UART's.
 */
#define _GNU_SOURCE
#include "cg_chip.h"
#include "cg_uart.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* This computer has no such instructions. */
__asm(".macro dsb\n.endm\n.macro isb\n.endm");

static int works;

static void show(uintptr_t waited_for);

static int answer(volatile uint32_t *reg, uint32_t mask, uint32_t value) {
    if (works) {
        *reg = (*reg & ~mask) | value;
    }
    show((uintptr_t)reg);
    return works;
}

#define cg_chip_wait answer
#include CG_CHIP_FILE
#include CG_UART_FILE

enum { BLOCK = 0x4000 };
static const uintptr_t blocks[] = {CG_TEST_BLOCKS};
enum { COUNT = sizeof blocks / sizeof blocks[0] };

static void show(uintptr_t waited_for) {
    printf("at %lx", (unsigned long)waited_for);
    for (int i = 0; i < COUNT; i++) {
        for (uintptr_t at = blocks[i]; at < blocks[i] + BLOCK; at += 4) {
            const uint32_t word = *(volatile uint32_t *)at;
            if (word != 0) {
                printf(" %lx=%x", (unsigned long)at, word);
            }
        }
    }
    printf("\n");
}

int main(int count, char **arguments) {
    for (int i = 0; i < COUNT; i++) {
        void *const wanted = (void *)blocks[i];
        if (mmap(wanted, BLOCK, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != wanted) {
            perror("mmap");
            return 1;
        }
    }
    works = atoi(arguments[1]);
    for (int i = 2; i + 1 < count; i += 2) {
        *(volatile uint32_t *)strtoul(arguments[i], NULL, 16) =
            (uint32_t)strtoul(arguments[i + 1], NULL, 16);
    }
    const cg_clocks clocks = cg_chip_open();
    cg_uart_open(clocks.uart_hz, CG_UART_BAUD);
    show(0);
    printf("clocks %u %u\n", clocks.core_hz, clocks.uart_hz);
    return 0;
}
