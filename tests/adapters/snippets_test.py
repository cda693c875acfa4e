"""Every C++ block of docs/adapter.md stands, word for word, in a file of examples/adapter."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
examples = [path.read_text() for path in sorted((root / "examples/adapter").glob("*.[ch]*"))]
blocks = re.findall(r"```cpp\n(.*?)```", (root / "docs/adapter.md").read_text(), re.S)
strange = [block for block in blocks if not any(block in text for text in examples)]
for block in strange:
    print("in no example:\n" + block)
print(f"{len(blocks)} blocks, {len(strange)} in no example")
sys.exit(1 if strange or not blocks else 0)
