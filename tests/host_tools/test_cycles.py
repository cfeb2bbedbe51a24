"""The cycle model on code whose cycles are counted by hand from the Cortex-M4's manual."""

import random
from pathlib import Path

import pytest

from c_programs import compile_target, run_target
from cgate.host_tools.plugin import CLASSES, Tally
from tiny import needs_qemu

pytestmark = pytest.mark.qemu

# r0 and r1 point to memory, r2 is 4, r7 is 0, r3 to r6 may be used: the compiler cannot spare all
# of them, so they are pushed and popped here.
PROLOGUE = ("push {r4-r7, lr}", "mov r0, %0", "add r1, r0, #64", "mov r2, #4", "mov r7, #0")
EPILOGUE = "pop {r4-r7, lr}"


def tally(codes: list[str], folder: Path, target: str = "cortex-m4") -> Tally:
    """Counts of every piece of assembly, a region each, framed by two NOPs inside the region.

    A NOP overlaps with nothing, so that no piece knows of what stands around it.
    """
    needs_qemu()
    regions = []
    for i, code in enumerate(codes):
        lines = [f".inst.w {0xF3AF8080 + i // 32:#x}", f".inst.w {0xF3AF80A0 + i % 32:#x}", "nop"]
        lines += [line.strip() for line in code.split(";")]
        lines += ["nop", f".inst.w {0xF3AF8080 + i // 32:#x}", f".inst.w {0xF3AF80C0 + i % 32:#x}"]
        text = "\\n\\t".join([*PROLOGUE, *lines, EPILOGUE])
        regions.append(
            f'    __asm volatile("{text}" : : "r"(memory)'
            ' : "r0", "r1", "r2", "r3", "r8", "r12", "cc", "memory");'
        )
    source = folder / "program.c"
    source.write_text(
        '#include "cg_marker.h"\n#include "cg_port.h"\n'
        "static _Alignas(8) unsigned memory[64];\n"
        "int main(void) {\n    cg_port_open();\n    CG_MARK_BEGIN(CG_MARK_INFERENCE);\n"
        + "\n".join(regions)
        + "\n    CG_MARK_END(CG_MARK_INFERENCE);\n    return 0;\n}\n"
    )
    program = compile_target("cycles", target, [source], "-mslow-flash-data")
    return run_target(program, target, folder, units=len(codes))[1].by_unit


# Code, its cycles, and its instructions by class. P, the refill of the pipeline, is 2.
HAND_COUNTED = {
    # Arithmetic: one cycle.
    "add r3, r2, #1; subs r3, #1; lsl.w r3, r3, #4; orr r3, r3, r2; cmp r3, r2": (5, {"alu": 5}),
    "movw r3, #1234; movt r3, #5; bfi r3, r2, #3, #7; ubfx r3, r3, #1, #9": (4, {"alu": 4}),
    "sxtb r3, r2; uxth.w r3, r2; clz r3, r2; rev r3, r2; rbit r3, r2": (5, {"alu": 5}),
    "tst r3, #1; teq r3, r2; cmn r3, r2; cmp.w r3, #1000; adr r3, . + 8": (5, {"alu": 5}),
    "mul r3, r2, r2; mla r3, r2, r2, r3; mls r3, r2, r2, r3": (3, {"mul": 3}),
    "smull r3, r4, r2, r2; umlal r3, r4, r2, r2; umaal r3, r4, r2, r2": (3, {"mul": 3}),
    "smmulr r3, r2, r2; smmlar r3, r2, r2, r3; smlabb r3, r2, r2, r3": (3, {"mul": 3}),
    "smlad r3, r2, r2, r3; smuad r3, r2, r2; smlald r3, r4, r2, r2": (3, {"mac2": 3}),
    "smlsdx r3, r2, r2, r3; smlsld r3, r4, r2, r2": (2, {"mac2": 2}),
    "sadd16 r3, r2, r2; qadd8 r3, r2, r2; usub8 r3, r2, r2; shasx r3, r2, r2": (4, {"simd": 4}),
    "sxtb16 r3, r2; sxtab16 r3, r2, r2; uxtab r3, r2, r2; pkhbt r3, r2, r2": (4, {"simd": 4}),
    "ssat r3, #8, r2; usat r3, #8, r2; ssat16 r3, #8, r2; qadd r3, r2, r2": (4, {"simd": 4}),
    "usad8 r3, r2, r2; sel r3, r2, r2": (2, {"simd": 2}),
    "udiv r3, r2, r2": (12, {"div": 1}),
    "nop; nop.w; dmb; mrs r3, PRIMASK": (4, {"system": 4}),
    # Loads: two cycles, one behind another whose result they do not need.
    "ldr r3, [r0]": (2, {"load": 1}),
    "ldr r3, [r0]; ldr r4, [r1]": (3, {"load": 2}),
    "ldr r3, [r0, r2]; ldrb r4, [r1]; ldrsh.w r5, [r0, #2]; ldr r6, [r1], #4": (5, {"load": 4}),
    "ldr r3, [r0]; add r4, r2, #1; ldr r5, [r1]": (5, {"load": 2, "alu": 1}),
    "adr.w r3, 9f; ldr r3, [r3]; b 8f; .balign 4; 9: .word 0x20000004; 8: ldr r4, [r3]": (
        1 + 3 + 3 + 2,
        {"load": 2, "alu": 1, "branch": 1},
    ),
    "ldr r3, 9f; b 8f; .balign 4; 9: .word 0; 8: nop": (
        2 + 3 + 1,
        {"load": 1, "branch": 1, "system": 1},
    ),
    # An address that the instruction before has computed comes a cycle late.
    "add r4, r0, #4; ldr r3, [r4]": (1 + 3, {"load": 1, "alu": 1}),
    "add r4, r0, #4; nop; ldr r3, [r4]": (1 + 1 + 2, {"load": 1, "alu": 1, "system": 1}),
    "add r4, r0, #4; str r3, [r4]": (1 + 2, {"store": 1, "alu": 1}),
    "add r4, r0, #4; ldm r4, {r3, r5}": (1 + 4, {"load": 1, "alu": 1}),
    # Stores: one cycle; with a register for an offset two, one behind a load.
    "str r2, [r0]; strb r2, [r0, #5]; strh r2, [r1], #2; str.w r2, [r0, #4]!": (4, {"store": 4}),
    "str r3, [r0, r2]; nop": (2 + 1, {"store": 1, "system": 1}),
    "ldr r3, [r0]; str r3, [r1, r2]": (2 + 1, {"load": 1, "store": 1}),
    "ldr r3, [r0]; str r3, [r1, #4]": (2 + 1, {"load": 1, "store": 1}),
    "str r3, [r1]; ldr r3, [r0]": (1 + 2, {"load": 1, "store": 1}),
    # Several words: one more than there are, overlapping with nothing.
    "ldrd r3, r4, [r0]; ldrd r5, r6, [r1], #8; strd r3, r4, [r0]": (9, {"load": 2, "store": 1}),
    "ldr r3, [r0]; ldm r1, {r4-r6}; ldr r3, [r0]": (2 + 4 + 2, {"load": 3}),
    "stm r0, {r3-r6}; push {r3, r4}; pop {r3, r4}": (5 + 3 + 3, {"load": 1, "store": 2}),
    "ldm.w r0, {r3, r4, r12}; stmdb r1, {r3, r4}": (4 + 3, {"load": 1, "store": 1}),
    # What is not aligned costs a cycle, a word at an odd address two.
    "ldr r3, [r0, #2]": (3, {"load": 1}),
    "ldr r3, [r0, #1]; ldrh.w r4, [r1, #3]": (4 + 2, {"load": 2}),
    "ldrb r3, [r0, #1]; ldrh r4, [r0, #2]": (3, {"load": 2}),
    "str r3, [r0, #3]": (3, {"store": 1}),
    # Branches: one cycle, and the refill where they are taken.
    "b 1f; nop; 1: nop": (3 + 1, {"branch": 1, "system": 1}),
    "cmp r2, #4; beq 1f; nop; 1: nop": (1 + 3 + 1, {"branch": 1, "alu": 1, "system": 1}),
    "cmp r2, #4; bne 1f; nop; 1: nop": (1 + 1 + 2, {"branch": 1, "alu": 1, "system": 2}),
    "cmp r2, #4; bne.w 1f; cbz r2, 1f; cbnz r2, 1f; nop; 1: nop": (
        1 + 1 + 1 + 3 + 1,
        {"branch": 3, "alu": 1, "system": 1},
    ),
    "bl 1f; b 2f; 1: bx lr; 2: nop": (3 + 3 + 3 + 1, {"branch": 3, "system": 1}),
    "bl 1f; b 2f; 1: push {r4, lr}; pop {r4, pc}; 2: nop": (
        3 + 3 + 3 + (3 + 2) + 1,
        {"branch": 2, "store": 1, "load": 1, "system": 1},
    ),
    "tbb [pc, r7]; .byte 1, 1; nop": (2 + 2 + 1, {"branch": 1, "system": 1}),
    # Under IT a return is a branch that may not be taken.
    "bl 1f; b 2f; 1: cmp r2, #4; it ne; bxne lr; nop; bx lr; 2: nop": (
        3 + 3 + 1 + 1 + 1 + 1 + 3 + 1,
        {"branch": 4, "alu": 1, "system": 3},
    ),
    "bl 1f; b 2f; 1: cmp r2, #4; it eq; bxeq lr; nop; 2: nop": (
        3 + 3 + 1 + 1 + 3 + 1,
        {"branch": 3, "alu": 1, "system": 2},
    ),
    "cmp r2, #4; ite eq; moveq r3, #1; movne r3, #2": (4, {"alu": 3, "system": 1}),
    # Loops: 1000 turns, the last of which falls through.
    "movw r4, #1000; 1: subs r4, r4, #1; bne 1b": (
        1 + 1000 * 2 + 999 * 2,
        {"alu": 1001, "branch": 1000},
    ),
    "movw r4, #1000; 1: ldr r3, [r0]; ldr r5, [r1]; smlad r3, r5, r5, r3; subs r4, #1; bne 1b": (
        1 + 1000 * (2 + 1 + 1 + 1 + 1) + 999 * 2,
        {"alu": 1001, "branch": 1000, "load": 2000, "mac2": 1000},
    ),
    # Two pairs of channels of the kernels' multiply-accumulate block: 8 products, 8 words.
    "movw r4, #100; 1: ldr r3, [r0]; ldr r5, [r0, #4]; ldr r6, [r1]; ldr r8, [r1, #4]; "
    "smlad r3, r5, r6, r3; smlad r5, r6, r8, r5; subs r4, #1; bne 1b": (
        1 + 100 * (2 + 1 + 1 + 1 + 2 + 1 + 1) + 99 * 2,
        {"alu": 101, "branch": 100, "load": 400, "mac2": 200},
    ),
}


def test_cycles_are_those_counted_by_hand(tmp_path: Path) -> None:
    counted = tally(list(HAND_COUNTED), tmp_path)
    frame = 2  # the NOPs around each piece
    for i, (code, (cycles, classes)) in enumerate(HAND_COUNTED.items()):
        found = {name: int(n) for name, n in zip(CLASSES, counted.classes[0, i], strict=True) if n}
        found["system"] -= frame
        assert {name: n for name, n in found.items() if n} == classes, code
        assert counted.cycles[0, i] - frame == cycles, code
        assert counted.instructions[0, i] - frame == sum(classes.values()), code
    assert not counted.stalls.any()


def test_a_block_cut_between_two_loads_costs_the_same(tmp_path: Path) -> None:
    """QEMU ends a translation block at a page's end; the core does not see it."""
    jump = "b 2f; .balign 4096; .space {}; 2: "
    loads = "ldr r3, [r0]; ldr.w r4, [r1]; ldr r5, [r0]; ldr.w r6, [r1]; ldr r3, [r0]; ldr r4, [r1]"
    offsets = range(4080, 4098, 2)
    counted = tally([jump.format(offset) + loads for offset in offsets], tmp_path)
    assert counted.cycles.tolist() == [[2 + 3 + 2 + 5 * 1] * len(offsets)]
    assert counted.instructions.tolist() == [[2 + 1 + 6] * len(offsets)]


SHORT = ("adds", "subs")


def arithmetic(rng: random.Random, pointers: dict[str, int], suffix: str) -> tuple[str, str, int]:
    """An instruction on a pointer, the register that it writes, and what it then holds."""
    to, source, by = *rng.choices(sorted(pointers), k=2), rng.randrange(8)
    code, change = rng.choice(
        (
            (f"add{suffix}.w {to}, {source}, #{by}", by),
            (f"sub{suffix}.w {to}, {source}, #{by}", -by),
            (f"addw{suffix} {to}, {source}, #{by}", by),
            (f"mov{suffix} {to}, {source}", 0),
            (f"mov{suffix}.w {to}, {source}", 0),
            (f"add{suffix}.w {to}, {source}, r8, lsl #1", 2),
            (f"add{suffix}.w {to}, {source}, r8, lsl #2", 4),
            (f"adds {to}, {source}, #{by}", by),
            (f"subs {to}, {source}, #{by}", -by),
            (f"adds {to}, #{by}", pointers[to] - pointers[source] + by),
            (f"subs {to}, #{by}", pointers[to] - pointers[source] - by),
        )
    )
    return code, to, pointers[source] + change


def access(
    rng: random.Random, pointers: dict[str, int], suffix: str
) -> tuple[str, int, int, str, int]:
    """A load or store, its cycles and those lost; the pointer, and what it then holds."""
    pointer, by = rng.choice(sorted(pointers)), rng.randrange(-7, 8)
    name = rng.choice(("ldr", "ldr", "str", "str", "ldrh", "ldrsh", "strh", "ldrb"))
    size = {"h": 2, "b": 1}.get(name[-1], 4)
    place, offset, moved = rng.choice(
        (
            (f"[{pointer}, #{by}]", by, 0),
            (f"[{pointer}, #{by}]!", by, by),
            (f"[{pointer}], #{by}", 0, by),
            (f"[{pointer}, #{4 * abs(by)}]", 4 * abs(by), 0),
            (f"[{pointer}, r8]", 1, 0),
            (f"[{pointer}, r8, lsl #1]", 2, 0),
            (f"[{pointer}, r8, lsl #2]", 4, 0),
        )
    )
    address = pointers[pointer] + offset
    lost = 0 if address % size == 0 else 2 if size == 4 and address % 2 else 1
    cycles = 1 if name.startswith("str") and "r8" not in place else 2
    code = f"{name}{suffix} {rng.choice(('r3', 'r6'))}, {place}"
    return code, cycles, lost, pointer, pointers[pointer] + moved


def straight_line(rng: random.Random) -> tuple[str, int]:
    """Accesses at addresses that random arithmetic gives, and the cycles they take.

    A NOP behind every instruction keeps all rules but that of unaligned accesses away.
    """
    pointers = {"r0": 96, "r1": 160, "r4": 96, "r5": 160}  # bytes from the start of the memory
    lines = ["add r0, #96", "add r1, #96", "mov r4, r0", "mov r5, r1", "mov r8, #1", "cmp r2, #4"]
    cycles = len(lines)
    kinds = {"arithmetic": 6, "access": 12, "skippable": 3, "cut": 1}
    while len(lines) < 40:
        kind = rng.choices([*kinds], [*kinds.values()])[0]
        if kind == "cut":  # here QEMU's block ends, and with it what is known
            lines.append("b 9f; 9:")
            cycles += 3
            continue
        suffix = rng.choice(("eq", "ne")) if kind == "skippable" else ""
        if rng.randrange(2 if suffix else 1) or kind == "arithmetic":
            (code, register, value), takes, lost = arithmetic(rng, pointers, suffix), 1, 0
        else:
            code, takes, lost, register, value = access(rng, pointers, suffix)
        if not 64 <= value <= 192 or (suffix and code.startswith(SHORT)):
            continue
        if code.startswith(SHORT):  # it has changed the flags
            code += "; cmp r2, #4"
            takes += 1
        lines.append(f"it {suffix}; {code}" if suffix else code)
        cycles += bool(suffix) + takes
        if suffix != "ne":
            cycles += lost
            pointers[register] = value
    return "; nop; ".join(lines), cycles + len(lines) - 1


def test_unaligned_accesses_are_found_from_few_addresses(tmp_path: Path) -> None:
    """Of addresses that differ by constants only one is looked at: the others must follow."""
    rng = random.Random(0)
    pieces = [straight_line(rng) for _ in range(250)]
    counted = tally([code for code, _ in pieces], tmp_path)
    frame = 2
    for i, (code, cycles) in enumerate(pieces):
        assert counted.cycles[0, i] - frame == cycles, code


def test_a_block_cut_behind_an_it_still_skips(tmp_path: Path) -> None:
    """What the IT skips has no address, moves no pointer and is no jump."""
    jump = "b 2f; .balign 4096; .space {}; 2: cmp r2, #4; "
    skipped = "ittt ne; ldrne.w r3, [r0], #1; ldrne.w r3, [r0], #1; bne.w 1f; 1: ldr r3, [r0]; nop"
    offsets = range(4078, 4098, 2)
    counted = tally([jump.format(offset) + skipped for offset in offsets], tmp_path)
    # Skipped instructions count as if they ran; loads behind each other overlap.
    cycles = 2 + 3 + 1 + 1 + (2 + 1 + 1) + 2 + 1
    assert counted.cycles.tolist() == [[cycles] * len(offsets)]
