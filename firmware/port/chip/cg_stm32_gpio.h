/* The GPIO block that all STM32 families share. The including file defines CG_GPIO_BASE. */
#ifndef CG_STM32_GPIO_H
#define CG_STM32_GPIO_H

#include "cg_chip.h"

#define CG_GPIO(pin, offset) CG_REG(CG_GPIO_BASE + (pin) / 32 * 0x400 + (offset))

enum { GPIO_MODER = 0x00, GPIO_PUPDR = 0x0c, GPIO_BSRR = 0x18, GPIO_AFRL = 0x20 };
enum { GPIO_OUTPUT = 1, GPIO_ALTERNATE = 2 };

/* Bits of an enable register with a bit per port, for the ports of all pins that are used. */
#define CG_GPIO_PORTS                                                                              \
    (UINT32_C(1) << CG_PIN_TX / 32 | UINT32_C(1) << CG_PIN_RX / 32 |                               \
     UINT32_C(1) << CG_PIN_PULSE / 32)

static inline void cg_gpio_mode(uint32_t pin, uint32_t mode) {
    const uint32_t shift = pin % 32 * 2;
    cg_chip_set(&CG_GPIO(pin, GPIO_MODER), UINT32_C(3) << shift, mode << shift);
}

/* Holds an input high while nothing drives it. */
static inline void cg_gpio_pull_up(uint32_t pin) {
    const uint32_t shift = pin % 32 * 2;
    cg_chip_set(&CG_GPIO(pin, GPIO_PUPDR), UINT32_C(3) << shift, UINT32_C(1) << shift);
}

static inline void cg_gpio_function(uint32_t pin, uint32_t function) {
    const uint32_t shift = pin % 8 * 4;
    cg_chip_set(&CG_GPIO(pin, GPIO_AFRL + pin % 32 / 8 * 4), UINT32_C(15) << shift,
                function << shift);
    cg_gpio_mode(pin, GPIO_ALTERNATE);
}

static inline void cg_gpio_write(uint32_t pin, int high) {
    CG_GPIO(pin, GPIO_BSRR) = UINT32_C(1) << (pin % 32 + (high ? 0 : 16));
}

/* The board's pins; their ports must have a clock. */
static inline void cg_gpio_open(void) {
    cg_gpio_function(CG_PIN_TX, CG_PIN_FUNCTION);
    cg_gpio_pull_up(CG_PIN_RX); /* an open line must not look like requests */
    cg_gpio_function(CG_PIN_RX, CG_PIN_FUNCTION);
    cg_gpio_write(CG_PIN_PULSE, 1);
    cg_gpio_mode(CG_PIN_PULSE, GPIO_OUTPUT);
}

#endif
