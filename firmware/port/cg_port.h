/*
 * What an application needs from where it runs. Each port implements it once: host/ (stdin and
 * stdout), cortex_m/cg_semihosting.c (files of a debugger or emulator), uart/ (a serial line).
 * The clock and the edges are there on the host and with a serial line only.
 */
#ifndef CG_PORT_H
#define CG_PORT_H

#include <stddef.h>
#include <stdint.h>

/* Prepares input and output; the program ends if that is impossible. */
void cg_port_open(void);

/* Reads `size` bytes and returns how many it got: fewer only when the input has ended. */
size_t cg_port_read(void *data, size_t size);

/* Writes `size` bytes; the program ends if that is impossible. */
void cg_port_write(const void *data, size_t size);

/* A message for people, beside the output where there is such a place. */
void cg_port_text(const char *text);

/* Stores a free-running 32-bit cycle counter and returns 1; returns 0 where there is none. */
int cg_port_cycles(uint32_t *cycles);

/* Microseconds since some moment; wraps. */
uint32_t cg_port_micros(void);

/* A falling edge on the board's power pin, low for at least 10 us. It begins or ends a window. */
void cg_port_edge(void);

/* Ends the program with an exit code, or stops the core where nobody waits for one. */
_Noreturn void cg_port_exit(int code);

#endif
