/*
 * Fault report, as text that the host program parses:
 *
 *     cgate fault: BusFault
 *     r0=00000000 r1=... r2=... r3=... r12=... lr=... pc=... xpsr=...
 *     cfsr=00008200 hfsr=... mmfar=... bfar=...
 *     cgate end
 */
#include "cg_fault.h"
#include "cg_port.h"

#include <stdint.h>

#if defined(__ARM_ARCH_6M__) /* which has none */
#define CFSR UINT32_C(0)
#define HFSR UINT32_C(0)
#define MMFAR UINT32_C(0)
#define BFAR UINT32_C(0)
#else
#define CFSR (*(volatile uint32_t *)0xe000ed28)
#define HFSR (*(volatile uint32_t *)0xe000ed2c)
#define MMFAR (*(volatile uint32_t *)0xe000ed34)
#define BFAR (*(volatile uint32_t *)0xe000ed38)
#endif

enum { FAULT_EXIT_CODE = 70 };

/* Called by the naked handlers below. */
_Noreturn void cg_fault_report(const uint32_t *frame, const char *name);

void cg_put_value(const char *name, uint32_t value) {
    char text[10];
    for (int i = 0; i < 8; i++) {
        text[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    }
    text[8] = ' ';
    text[9] = '\0';
    cg_port_text(name);
    cg_port_text(text);
}

_Noreturn void cg_fault_report(const uint32_t *frame, const char *name) {
    static const char *const names[8] = {"r0=", "r1=", "r2=", "r3=", "r12=", "lr=", "pc=", "xpsr="};
    cg_port_text("\ncgate fault: ");
    cg_port_text(name);
    cg_port_text("\n");
    for (int i = 0; i < 8; i++) {
        cg_put_value(names[i], frame[i]);
    }
    cg_port_text("\n");
    cg_put_value("cfsr=", CFSR);
    cg_put_value("hfsr=", HFSR);
    cg_put_value("mmfar=", MMFAR);
    cg_put_value("bfar=", BFAR);
    cg_port_text("\ncgate end\n");
    cg_port_exit(FAULT_EXIT_CODE);
}

/*
 * The report runs on an emptied stack, with a copy of the stacked registers: the old stack may be
 * the very thing that is broken. If it has left the RAM, the registers are whatever lies at its
 * limit; CFSR tells (STKERR or STKOF).
 */
#define CG_FAULT_HANDLER(function, name)                                                           \
    __attribute__((naked)) void function(void) {                                                   \
        __asm volatile("mrs r0, msp\n\t"                                                           \
                       "ldr r1, =cg_stack_limit\n\t"                                               \
                       "cmp r0, r1\n\t"                                                            \
                       "bhs 2f\n\t"                                                                \
                       "mov r0, r1\n"                                                              \
                       "2: ldr r1, =cg_stack_top\n\t"                                              \
                       "mov r12, r1\n\t"                                                           \
                       "ldmia r0!, {r4-r7}\n\t"                                                    \
                       "ldmia r0, {r0-r3}\n\t"                                                     \
                       "mov sp, r12\n\t"                                                           \
                       "push {r0-r3}\n\t"                                                          \
                       "push {r4-r7}\n\t"                                                          \
                       "mov r0, sp\n\t"                                                            \
                       "adr r1, 1f\n\t"                                                            \
                       "bl cg_fault_report\n\t"                                                    \
                       ".balign 4\n"                                                               \
                       "1: .asciz \"" name "\"\n\t"                                                \
                       ".balign 4\n\t"                                                             \
                       ".ltorg");                                                                  \
    }

CG_FAULT_HANDLER(cg_fault_nmi, "NMI")
CG_FAULT_HANDLER(cg_fault_hard, "HardFault")
CG_FAULT_HANDLER(cg_fault_memory, "MemManage")
CG_FAULT_HANDLER(cg_fault_bus, "BusFault")
CG_FAULT_HANDLER(cg_fault_usage, "UsageFault")
CG_FAULT_HANDLER(cg_fault_secure, "SecureFault")
CG_FAULT_HANDLER(cg_fault_other, "unexpected exception")

__attribute__((weak)) CG_FAULT_HANDLER(cg_systick, "unexpected exception")
