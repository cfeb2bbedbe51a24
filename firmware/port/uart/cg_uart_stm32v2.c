/* The USART and LPUART of STM32 from L4, H7 and U5 on. */
#include "cg_uart.h"

#define CR1 (*(volatile uint32_t *)(CG_UART_BASE + 0x00))
#define CR3 (*(volatile uint32_t *)(CG_UART_BASE + 0x08))
#define BRR (*(volatile uint32_t *)(CG_UART_BASE + 0x0c))
#define ISR (*(volatile uint32_t *)(CG_UART_BASE + 0x1c))
#define RDR (*(volatile uint32_t *)(CG_UART_BASE + 0x24))
#define TDR (*(volatile uint32_t *)(CG_UART_BASE + 0x28))

enum { ISR_RX_READY = 1 << 5, ISR_TX_EMPTY = 1 << 7 };
enum { CR1_ENABLE = 1 << 0, CR1_RX = 1 << 2, CR1_TX = 1 << 3 };
enum { CR3_NO_OVERRUN = 1 << 12 };

/* The low-power UART counts in 256ths of its clock. On L4 it is told by its address. */
#define LPUART1_L4 0x40008000u
enum { STEPS = CG_UART_BASE == LPUART1_L4 ? 256 : 1 };

void cg_uart_open(uint32_t clock_hz, uint32_t baud) {
    BRR = (uint32_t)(((uint64_t)clock_hz * STEPS + baud / 2) / baud);
    /* A lost byte is found by the protocol; an overrun flag would stop the receiver. */
    CR3 = CR3_NO_OVERRUN;
    CR1 = CR1_ENABLE | CR1_TX | CR1_RX;
}

uint8_t cg_uart_get(void) {
    while ((ISR & ISR_RX_READY) == 0) {
    }
    return (uint8_t)RDR;
}

void cg_uart_put(uint8_t byte) {
    while ((ISR & ISR_TX_EMPTY) == 0) {
    }
    TDR = byte;
}
