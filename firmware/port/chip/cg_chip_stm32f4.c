/*
 * STM32F405, F407 (168 MHz) and F446 (180 MHz); registers from RM0090 and RM0390.
 *
 * Clocked from the chip's own 16 MHz RC oscillator, 1 %: on Nucleo boards the external clock comes
 * from the debugger, which must not run while power is measured.
 */
#define CG_GPIO_BASE 0x40020000u
#include "cg_chip.h"
#include "cg_stm32_gpio.h"

#define RCC_CR CG_REG(0x40023800)
#define RCC_PLLCFGR CG_REG(0x40023804)
#define RCC_CFGR CG_REG(0x40023808)
#define RCC_AHB1ENR CG_REG(0x40023830)
#define RCC_APB1ENR CG_REG(0x40023840)
#define RCC_APB2ENR CG_REG(0x40023844)
#define PWR_CR CG_REG(0x40007000)
#define PWR_CSR CG_REG(0x40007004)
#define FLASH_ACR CG_REG(0x40023c00)

#define CR_PLL_ON (UINT32_C(1) << 24)
#define CR_PLL_READY (UINT32_C(1) << 25)
#define PLL_INPUT_HZ 2000000u /* 16 MHz / 8 */
#define CFGR_APB1_DIV4 (UINT32_C(5) << 10)
#define CFGR_APB2_DIV2 (UINT32_C(4) << 13)
#define CFGR_SW_PLL UINT32_C(2)
#define APB1_PWR (UINT32_C(1) << 28)
#define APB1_USART2 (UINT32_C(1) << 17)
#define APB2_USART1 (UINT32_C(1) << 4)
/* F405 and F407 have one bit of it; the other one is reserved there. */
#define PWR_VOS_HIGHEST ((CG_CLOCK_HZ > 168000000 ? UINT32_C(3) : UINT32_C(1)) << 14)
#define PWR_OVERDRIVE (UINT32_C(1) << 16)
#define PWR_OVERDRIVE_SWITCH (UINT32_C(1) << 17)
#define ACR_5_WAITS_PREFETCH_CACHES (UINT32_C(5) | UINT32_C(7) << 8)
#define UART_ON_APB2 (CG_UART_BASE >= 0x40010000u)

enum { RESET_HZ = 16000000 };

/* Above 168 MHz the regulator must be overdriven first. */
static int overdrive(void) {
    PWR_CR |= PWR_OVERDRIVE;
    if (!cg_chip_wait(&PWR_CSR, PWR_OVERDRIVE, PWR_OVERDRIVE)) {
        return 0;
    }
    PWR_CR |= PWR_OVERDRIVE_SWITCH;
    return cg_chip_wait(&PWR_CSR, PWR_OVERDRIVE_SWITCH, PWR_OVERDRIVE_SWITCH);
}

static int start_pll(void) {
    PWR_CR |= PWR_VOS_HIGHEST;
    /* Input / 8, times N, / 2 (field 0); Q for at most 48 MHz; R, where there is one, at its least
     * legal value. */
    RCC_PLLCFGR = 8 | (CG_CLOCK_HZ * 2 / PLL_INPUT_HZ) << 6 | UINT32_C(8) << 24 | UINT32_C(2) << 28;
    RCC_CR |= CR_PLL_ON;
    if (!cg_chip_wait(&RCC_CR, CR_PLL_READY, CR_PLL_READY) ||
        (CG_CLOCK_HZ > 168000000 && !overdrive())) {
        return 0;
    }
    FLASH_ACR = ACR_5_WAITS_PREFETCH_CACHES;
    RCC_CFGR = CFGR_APB1_DIV4 | CFGR_APB2_DIV2 | CFGR_SW_PLL;
    return cg_chip_wait(&RCC_CFGR, UINT32_C(3) << 2, CFGR_SW_PLL << 2);
}

cg_clocks cg_chip_open(void) {
    RCC_AHB1ENR |= CG_GPIO_PORTS;
    RCC_APB1ENR |= APB1_PWR | (UART_ON_APB2 ? 0 : APB1_USART2);
    RCC_APB2ENR |= UART_ON_APB2 ? APB2_USART1 : 0;
    (void)RCC_APB2ENR; /* a clock needs two cycles before its block answers */
    cg_gpio_open();
    if (!start_pll()) {
        RCC_CFGR = 0;
        return (cg_clocks){RESET_HZ, RESET_HZ};
    }
    return (cg_clocks){CG_CLOCK_HZ, CG_CLOCK_HZ / (UART_ON_APB2 ? 2 : 4)};
}

void cg_chip_pulse(int high) {
    cg_gpio_write(CG_PIN_PULSE, high);
}
