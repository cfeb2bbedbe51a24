/*
 * STM32H743 at 400 MHz (voltage scale 1, which every revision has) with USART3; registers from
 * RM0433. The PLL and the UART run from the 64 MHz RC oscillator, which is on after reset.
 */
#define CG_GPIO_BASE 0x58020000u
#include "cg_chip.h"
#include "cg_stm32_gpio.h"

#define RCC_CR CG_REG(0x58024400)
#define RCC_CFGR CG_REG(0x58024410)
#define RCC_D1CFGR CG_REG(0x58024418)
#define RCC_D2CFGR CG_REG(0x5802441c)
#define RCC_D3CFGR CG_REG(0x58024420)
#define RCC_PLLCKSELR CG_REG(0x58024428)
#define RCC_PLLCFGR CG_REG(0x5802442c)
#define RCC_PLL1DIVR CG_REG(0x58024430)
#define RCC_D2CCIP2R CG_REG(0x58024454)
#define RCC_AHB4ENR CG_REG(0x580244e0)
#define RCC_APB1LENR CG_REG(0x580244e8)
#define PWR_CSR1 CG_REG(0x58024804)
#define PWR_CR3 CG_REG(0x5802480c)
#define PWR_D3CR CG_REG(0x58024818)
#define FLASH_ACR CG_REG(0x52002000)
#define DBGMCU_IDCODE CG_REG(0x5c001000)
#define AXI_TARG7_FN_MOD CG_REG(0x51008108) /* how the bus matrix reads the AXI SRAM */
#define SCB_CCR CG_REG(0xe000ed14)
#define SCB_CCSIDR CG_REG(0xe000ed80)
#define SCB_CSSELR CG_REG(0xe000ed84)
#define SCB_ICIALLU CG_REG(0xe000ef50)
#define SCB_DCISW CG_REG(0xe000ef60)

#define CR_PLL1_ON (UINT32_C(1) << 24)
#define CR_PLL1_READY (UINT32_C(1) << 25)
#define CFGR_SW_PLL1 UINT32_C(3)
#define PLL_HSI_DIV4 (UINT32_C(4) << 4)
/* Input 8 to 16 MHz, wide VCO, output P on, no fraction. */
#define PLLCFGR_WIDE_P (UINT32_C(3) << 2 | UINT32_C(1) << 16)
/* 16 MHz * 50 / 2: every field is one less than what it means. */
#define PLL1DIVR_50_2 (UINT32_C(49) | UINT32_C(1) << 9 | UINT32_C(1) << 16 | UINT32_C(1) << 24)
/* Core 400 MHz, buses 200 MHz, peripherals 100 MHz. */
#define D1_AHB_DIV2_APB_DIV2 (UINT32_C(8) | UINT32_C(4) << 4)
#define D2_APB_DIV2 (UINT32_C(4) << 4 | UINT32_C(4) << 8)
#define D3_APB_DIV2 (UINT32_C(4) << 4)
#define APB1_USART3 (UINT32_C(1) << 18)
#define D2CCIP2R_USART_HSI UINT32_C(3)
#define PWR_SUPPLY UINT32_C(7)
#define PWR_SUPPLY_LDO UINT32_C(2)
#define PWR_VOS_READY (UINT32_C(1) << 13)
#define PWR_VOS1 (UINT32_C(3) << 14)
#define REVISION_B (UINT32_C(0x2000) << 16)
#define READ_ISS_OVERRIDE UINT32_C(1)
#define ACR_2_WAITS (UINT32_C(2) | UINT32_C(2) << 4)
#define CCR_DCACHE (UINT32_C(1) << 16)
#define CCR_ICACHE (UINT32_C(1) << 17)

enum { HSI_HZ = 64000000 };

/* ES0392 2.2.9: up to revision Y reads of the AXI SRAM, which is all of the RAM here, may return
 * wrong data unless it serves them one at a time. An unreadable revision (0) counts as old. */
static void read_ram_safely(void) {
    if (DBGMCU_IDCODE < REVISION_B) {
        AXI_TARG7_FN_MOD = READ_ISS_OVERRIDE;
    }
}

/* The caches hold noise after reset. */
static void start_caches(void) {
    SCB_ICIALLU = 0;
    SCB_CSSELR = 0;
    __asm volatile("dsb" ::: "memory"); /* before what it selects is read */
    const uint32_t sets = (SCB_CCSIDR >> 13 & 0x7fff) + 1, ways = (SCB_CCSIDR >> 3 & 0x3ff) + 1;
    for (uint32_t set = 0; set < sets; set++) {
        for (uint32_t way = 0; way < ways; way++) {
            SCB_DCISW = way << 30 | set << 5; /* 4 ways, lines of 32 bytes */
        }
    }
    __asm volatile("dsb" ::: "memory");
    SCB_CCR |= CCR_ICACHE | CCR_DCACHE;
    __asm volatile("dsb\n\tisb" ::: "memory");
}

static int start_pll(void) {
    /* The supply must be chosen, once, before the voltage can be. */
    cg_chip_set(&PWR_CR3, PWR_SUPPLY, PWR_SUPPLY_LDO);
    if (!cg_chip_wait(&PWR_CSR1, PWR_VOS_READY, PWR_VOS_READY)) {
        return 0;
    }
    PWR_D3CR |= PWR_VOS1;
    if (!cg_chip_wait(&PWR_D3CR, PWR_VOS_READY, PWR_VOS_READY)) {
        return 0;
    }
    RCC_PLLCKSELR = PLL_HSI_DIV4;
    RCC_PLLCFGR = PLLCFGR_WIDE_P;
    RCC_PLL1DIVR = PLL1DIVR_50_2;
    RCC_CR |= CR_PLL1_ON;
    if (!cg_chip_wait(&RCC_CR, CR_PLL1_READY, CR_PLL1_READY)) {
        return 0;
    }
    FLASH_ACR = ACR_2_WAITS;
    RCC_D1CFGR = D1_AHB_DIV2_APB_DIV2;
    RCC_D2CFGR = D2_APB_DIV2;
    RCC_D3CFGR = D3_APB_DIV2;
    cg_chip_set(&RCC_CFGR, 7, CFGR_SW_PLL1);
    return cg_chip_wait(&RCC_CFGR, UINT32_C(7) << 3, CFGR_SW_PLL1 << 3);
}

cg_clocks cg_chip_open(void) {
    read_ram_safely();
    RCC_AHB4ENR |= CG_GPIO_PORTS;
    RCC_APB1LENR |= APB1_USART3;
    (void)RCC_APB1LENR;
    cg_chip_set(&RCC_D2CCIP2R, 7, D2CCIP2R_USART_HSI);
    start_caches();
    cg_gpio_open();
    if (!start_pll()) {
        cg_chip_set(&RCC_CFGR, 7, 0);
        return (cg_clocks){HSI_HZ, HSI_HZ};
    }
    return (cg_clocks){CG_CLOCK_HZ, HSI_HZ};
}

void cg_chip_pulse(int high) {
    cg_gpio_write(CG_PIN_PULSE, high);
}
