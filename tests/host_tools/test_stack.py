"""The stack bound, from call graphs as GCC writes them."""

from pathlib import Path

from cgate.host_tools.stack import EXTERNAL_FRAME, read_call_graph, stack_bound


def node(title: str, size: int) -> str:
    return f'node: {{ title: "{title}" label: "{title}\\nfile.c:1:1\\n{size} bytes (static)" }}\n'


def edge(source: str, target: str) -> str:
    return f'edge: {{ sourcename: "{source}" targetname: "{target}" label: "file.c:2:2" }}\n'


def bound(folder: Path, text: str) -> int:
    path = folder / "file.ci"
    path.write_text('graph: { title: "file.c"\n' + text + "}\n")
    return stack_bound(read_call_graph([path]), "main")


def test_longest_path_counts(tmp_path: Path) -> None:
    text = node("main", 10) + node("a", 100) + node("b", 30) + node("c", 90)
    text += edge("main", "a") + edge("main", "b") + edge("b", "c")
    assert bound(tmp_path, text) == 10 + 30 + 90


def test_library_functions_have_an_assumed_frame(tmp_path: Path) -> None:
    text = node("main", 10) + 'node: { title: "memcpy" label: "memcpy\\nstring.h" }\n'
    assert bound(tmp_path, text + edge("main", "memcpy")) == 10 + EXTERNAL_FRAME


def test_indirect_calls_reach_every_function_without_callers(tmp_path: Path) -> None:
    """Main calls run by pointer, run calls the callback by pointer."""
    text = node("main", 10) + node("run", 40) + node("callback", 25) + node("kernel", 5)
    text += edge("main", "__indirect_call") + edge("run", "__indirect_call") + edge("run", "kernel")
    assert bound(tmp_path, text) == 10 + 40 + 25
